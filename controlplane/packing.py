"""Decided commands into commits: in order, whole where they fit, each answered with the commit that completes it.

Easy to get wrong: a command of several objects is never torn over two commits (all or none). One of a single object
may be, where it has very many followers (a namespace's endpoints): cut off in between, repeating it completes it. So
may be what only prepares for the objects (labels of pods that no policy names yet).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from kilim.controlplane.decide.command import (
    AllocateIdentities,
    ApplyObjects,
    ChangeSetting,
    Command,
    DeleteObjects,
    PreparePolicies,
    ReleaseIdentities,
    WithdrawMemberships,
)
from kilim.controlplane.decide.refusal import Code, Refusal
from kilim.kvstore.commit import COMMIT_BYTES_MAX, COMMIT_RECORDS_MAX

# What a commit holds beside its records: two digests, the append id; and per record its tag and length.
PART_BYTES_MAX = COMMIT_BYTES_MAX - 1024
RECORD_OVERHEAD_BYTES = 5
# Of what is in several commits anyway: every replica and agent folds a commit in one go, 1,000 events in some 40 ms.
SPREAD_RECORDS = 1000

T = TypeVar("T")


@dataclass(slots=True)
class Part(Generic[T]):
    """The records of one commit, and who is answered once it stands. No records: nothing to append."""

    records: list[bytes] = field(default_factory=list)
    answers: list[T] = field(default_factory=list)
    size: int = 0

    def fits(self, size: int, count: int) -> bool:
        return self.size + size <= PART_BYTES_MAX and len(self.records) + count <= COMMIT_RECORDS_MAX

    def add(self, records: Iterable[bytes], size: int) -> None:
        self.records += records
        self.size += size


def cost_of(records: Iterable[bytes]) -> int:
    return sum(len(record) + RECORD_OVERHEAD_BYTES for record in records)


def check_size(command: Command, records: list[bytes], preparations: int = 0) -> Refusal | None:
    """Why these records of one command cannot be appended, if they cannot. The first `preparations` may stand alone."""
    if any(len(record) + RECORD_OVERHEAD_BYTES > PART_BYTES_MAX for record in records):
        return Refusal(Code.INVALID, f"an object is too large: one event must be under {PART_BYTES_MAX} bytes")
    records = records[preparations:]
    if is_divisible(command) or Part[None]().fits(cost_of(records), len(records)):
        return None
    return Refusal(
        Code.INVALID,
        f"the change is too large to happen at once ({len(records)} events, {cost_of(records)} bytes; at most "
        f"{COMMIT_RECORDS_MAX} events and {PART_BYTES_MAX} bytes): split it into several",
    )


def is_divisible(command: Command) -> bool:
    match command:
        case ApplyObjects(documents=objects) | DeleteObjects(refs=objects):
            return len(objects) <= 1
        case ReleaseIdentities() | WithdrawMemberships() | ChangeSetting():
            return True
        case AllocateIdentities() | PreparePolicies():
            return True
        case _:
            return False


def pack(decided: Iterable[tuple[T, list[bytes], int]]) -> list[Part[T]]:
    """(whom to answer, records, how many of them prepare) in order; the sizes are checked already."""
    parts = [Part[T]()]
    for whom, records, preparations in decided:
        if not _add_whole(parts, records):
            parts.append(Part())
            _spread(parts, records[:preparations])
            rest = records[preparations:]
            if not _add_whole(parts, rest):
                _spread(parts, rest)
        parts[-1].answers.append(whom)
    return parts


def _add_whole(parts: list[Part[T]], records: list[bytes]) -> bool:
    """To the last part, or to a new one after it; unless they fit in none."""
    size = cost_of(records)
    if not parts[-1].fits(size, len(records)):
        if not Part[T]().fits(size, len(records)):
            return False
        parts.append(Part())
    parts[-1].add(records, size)
    return True


def _spread(parts: list[Part[T]], records: list[bytes]) -> None:
    for record in records:
        size = cost_of((record,))
        if len(parts[-1].records) >= SPREAD_RECORDS or not parts[-1].fits(size, 1):
            parts.append(Part())
        parts[-1].add((record,), size)
