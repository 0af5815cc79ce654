"""Digests that somebody else says, compared with ours as soon as we have ours for that sequence number.

Easy to get wrong: who speaks faster than we reckon must still be compared now and then, so the oldest word that waits
is kept until its turn, and the newest after it. A difference stands until a digest at the same seq or later agrees.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from kilim.v1 import controlplane_pb2 as api


class Said(NamedTuple):
    seq: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Difference:
    """`what` is the digest's name: "state digest", "table digest" …"""

    what: str
    seq: int
    theirs: bytes
    ours: bytes

    def __str__(self) -> str:
        return f"{self.what} at seq {self.seq} is {self.theirs.hex()}, this replica has {self.ours.hex()}"


class Compared:
    """One kind of digest of one node or replica."""

    __slots__ = ("what", "difference", "match", "seq", "_newest", "_waiting")

    def __init__(self, what: str) -> None:
        self.what = what
        self.difference: Difference | None = None  # an alarm while there is one
        self.match: bool | None = None  # the last verdict, at `seq`
        self.seq = 0
        self._newest: Said | None = None
        self._waiting: Said | None = None

    @property
    def verdict(self) -> "api.Comparison.ValueType":
        """Of the newest digest that was said; a difference found before stands until it is gone."""
        if self.difference is not None:
            return api.DIFFERS
        settled = self.match and self._newest is not None and self._newest.seq == self.seq and self._waiting is None
        return api.MATCH if settled else api.NOT_COMPARED

    @property
    def agrees(self) -> bool | None:
        """As of the last comparison; None: nothing was compared yet."""
        return False if self.difference is not None else self.match

    @property
    def waits(self) -> bool:
        """For ours."""
        return self._waiting is not None

    @property
    def waiting_seq(self) -> int | None:
        """What it is that waits."""
        return None if self._waiting is None else self._waiting.seq

    @property
    def passed_over(self) -> bool:
        """We are where the newest digest is of, or beyond, and had none of ours to compare it with."""
        return self._newest is not None and not self.waits and self.verdict == api.NOT_COMPARED

    def hear(self, seq: int, digest: bytes) -> None:
        if not digest or self._newest == (seq, digest):
            return
        self._newest = Said(seq, digest)
        # Who goes back has begun again, in a log that may never reach the seq that was waited for.
        if self._waiting is None or seq < self._waiting.seq:
            self._waiting = self._newest

    def compare(self, reached: int, ours_at: Callable[[int], bytes | None]) -> bool:
        """Up to seq `reached`, which is as far as we are. Whether an alarm began or ended."""
        before = self.difference is not None
        while self._waiting is not None and self._waiting.seq <= reached:
            said = self._waiting
            self._waiting = self._newest if self._newest is not said else None
            ours = ours_at(said.seq)
            if ours is not None:  # else remembered no longer
                self._judge(said, ours)
        return (self.difference is not None) != before

    def _judge(self, said: Said, ours: bytes) -> None:
        self.seq, self.match = said.seq, said.digest == ours
        if not self.match:
            self.difference = Difference(self.what, said.seq, said.digest, ours)
        elif self.difference is not None and said.seq >= self.difference.seq:
            self.difference = None
