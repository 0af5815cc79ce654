"""What can go wrong between us and etcd, by what the caller may conclude from it.

Easy to get wrong: `Unavailable` promises that nothing was written; `OutcomeUnknown` promises nothing at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kilim.kvstore.head import LogHead


class KvError(Exception):
    """Any failure of this floor."""


class Conflict(KvError):
    """Somebody else appended first; `head` is what stands now. Catch up, decide again."""

    def __init__(self, head: LogHead) -> None:
        super().__init__(f"the log's head moved on, next seq is {head.next_seq}")
        self.head = head


class Unavailable(KvError):
    """No endpoint answered in time; if it was a write, it surely has not been applied and never will be."""


class BeingRestored(Unavailable):
    """A restore of the log has begun and not ended; until then there is none to read or to append to."""


class OutcomeUnknown(KvError):
    """A write was sent and no answer came: it may have been applied, or may yet be."""


class Compacted(KvError):
    """The revision asked for is no longer kept: read the present state and go on from there."""

    def __init__(self, compact_revision: int) -> None:
        super().__init__(f"etcd is compacted up to revision {compact_revision}")
        self.compact_revision = compact_revision


class LogBroken(KvError):
    """The log has a gap, a repeat, a broken chain, or went backwards (I3). `seq` is the first wrong event."""

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(f"log broken at seq {seq}: {reason}")
        self.seq = seq
        self.reason = reason


class Trimmed(KvError):
    """Events before `first_seq` are not held any more, here: begin from a snapshot, or read segments that have them."""

    def __init__(self, first_seq: int) -> None:
        super().__init__(f"the log begins at seq {first_seq}: what was before it has been trimmed")
        self.first_seq = first_seq


class SnapshotBroken(KvError):
    """A snapshot that is not what its manifest says, or is gone: the one before it may do."""

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(f"snapshot {seq} broken: {reason}")
        self.seq = seq
        self.reason = reason


class NoSegments(KvError):
    """The directories hold no exported log."""


class NotEmpty(KvError):
    """A restore is into an empty etcd; this one holds a log already, or somebody runs on it."""


class CannotRestore(KvError):
    """The segments are whole, but no log can be begun from them."""


class LeaseLost(KvError):
    """The lease expired, was revoked, or could not be refreshed in time by the local monotonic clock."""


class TooLarge(KvError):
    """More than one request to etcd or one commit may hold; surely not applied."""


class NoSpace(KvError):
    """etcd is at its quota: every write fails until it is compacted, defragmented and the alarm disarmed."""


class Denied(KvError):
    """etcd refused our name, password, certificate or permission, also after a new token."""


class Rejected(KvError):
    """etcd understood the request and refused it; trying again will not help."""


class FutureRevision(Rejected):
    """The revision asked for does not exist yet: from an etcd that had more, it means that data was lost."""


class NoEtcd(KvError):
    """An etcd of our own could not be started; the message says what is missing."""
