"""The log as the offline verbs read it: what is held, its commits, and the snapshots a state is rebuilt from.

Easy to get wrong: a source is read by one thread, and everything it yields has been verified (I3); what it cannot give
it raises as `Trimmed`, `LogBroken` or `SnapshotBroken`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from kilim.kvstore.commit import Commit
from kilim.kvstore.span import Span


@dataclass(frozen=True, slots=True)
class Base:
    """A snapshot: `records` are serialized StateRecords, verified while they are read, once. `time_ns`: when event
    `seq` was, 0 where nobody says."""

    seq: int
    chain: bytes
    state_digest: bytes
    records: Iterator[bytes]
    time_ns: int = 0


class HistorySource(Protocol):
    def span(self) -> Span:
        """The events that are held, as of the first call."""

    def commits(self, from_seq: int, to_seq: int | None = None) -> Iterator[Commit]:
        """From the commit that holds `from_seq` to the one that holds `to_seq` (default: the last there is)."""

    def snapshot_seqs(self) -> list[int]:
        """Of the snapshots that are there, also of those that turn out to be broken when they are read."""

    def base(self, at_seq: int) -> Base | None:
        """The newest complete snapshot with seq <= at_seq; None: there is none."""

    def snapshot(self, seq: int) -> Base | None:
        """That of `seq` itself; None: it is not there, any more. Raises SnapshotBroken, or its records do."""
