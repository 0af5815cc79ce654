"""The keys of one cluster's log in etcd (docs: DESIGN, the log). PURE.

    /kilim/v1/<cluster>/log/<first seq, 20 digits>   one commit
                       /head                         what the next append must follow
                       /turn                         who asks the others to let it append
                       /start                        where the log begins, once it was trimmed
                       /snapshot/<seq, 20 digits>    the manifest of a complete snapshot
                       /snapshot-part/<seq, 20 digits>/<n, 6 digits>   some of its records
                       /reserve/<n>                  nothing: room to put a full etcd in order
                       /member/<name>, /leader       presence and leadership, under a lease

Easy to get wrong: a commit holds several events, so the numbers of log keys are ordered but not dense.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_CLUSTER = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
ROOT = b"/kilim/v1/"
_SEQ_DIGITS = 20
_PART_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Keys:
    cluster: str

    def __post_init__(self) -> None:
        if not _CLUSTER.fullmatch(self.cluster):
            raise ValueError(f"cluster name {self.cluster!r}: letters, digits, '.', '_' and '-' only, at most 64")

    @property
    def prefix(self) -> bytes:
        return ROOT + self.cluster.encode() + b"/"

    @property
    def head(self) -> bytes:
        return self.prefix + b"head"

    @property
    def turn(self) -> bytes:
        return self.prefix + b"turn"

    @property
    def leader(self) -> bytes:
        return self.prefix + b"leader"

    @property
    def members(self) -> bytes:
        return self.prefix + b"member/"

    def member(self, name: str) -> bytes:
        if not name or "/" in name:
            raise ValueError(f"member name {name!r}: must not be empty nor hold a '/'")
        return self.members + name.encode()

    def member_name(self, key: bytes) -> str:
        return key[len(self.members) :].decode()

    @property
    def log(self) -> bytes:
        return self.prefix + b"log/"

    def commit(self, first_seq: int) -> bytes:
        return self.log + b"%0*d" % (_SEQ_DIGITS, first_seq)

    @property
    def start(self) -> bytes:
        return self.prefix + b"start"

    @property
    def reserve(self) -> bytes:
        return self.prefix + b"reserve/"

    @property
    def snapshots(self) -> bytes:
        return self.prefix + b"snapshot/"

    def snapshot(self, seq: int) -> bytes:
        return self.snapshots + b"%0*d" % (_SEQ_DIGITS, seq)

    @property
    def snapshot_parts(self) -> bytes:
        return self.prefix + b"snapshot-part/"

    def parts_of(self, seq: int) -> bytes:
        return self.snapshot_parts + b"%0*d/" % (_SEQ_DIGITS, seq)

    def part(self, seq: int, number: int) -> bytes:
        return self.parts_of(seq) + b"%0*d" % (_PART_DIGITS, number)

    def seq_of_part(self, key: bytes) -> int:
        return int(key[len(self.snapshot_parts) :].partition(b"/")[0])
