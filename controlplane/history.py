"""The last commits as encoded bytes and the last state digests: subscribers and reports are served from it.

Easy to get wrong: nobody has a queue here. A subscriber is a number (the next seq it wants); what it does not take in
time falls out at the old end, and it reads the log instead (I11).
"""

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from kilim.kvstore.commit import CHAIN_START, Commit, chain_over, decode_commit

HELD_BYTES_MAX = 32 << 20
HELD_DIGESTS = 8192
BATCH_EVENTS = 500
BATCH_BYTES = 256 << 10
_TRIM_SLACK = 1024


@dataclass(frozen=True, slots=True)
class Held:
    first_seq: int
    last_seq: int
    chain_after: bytes
    encoded: bytes


class History:
    """`seq` and `chain` are of the last event; commits of `first_seq` .. `seq` are held."""

    def __init__(self, max_bytes: int = HELD_BYTES_MAX, max_digests: int = HELD_DIGESTS) -> None:
        self.seq = 0
        self.chain = CHAIN_START
        self.first_seq = 1
        self._max_bytes = max_bytes
        self._max_digests = max_digests
        self._bytes = 0
        self._held: list[Held] = []
        self._last_seqs: list[int] = []
        self._start = 0  # entries before it have fallen out
        self._digests: deque[bytes] = deque(maxlen=max_digests)  # of the events up to seq
        self._changed = asyncio.Event()

    def add(self, commit: Commit, digests: Sequence[bytes]) -> None:
        """One verified commit, with the state digest after each of its events."""
        self.seq, self.chain = commit.last_seq, commit.chain_after
        self._held.append(Held(commit.first_seq, commit.last_seq, commit.chain_after, commit.encoded))
        self._last_seqs.append(commit.last_seq)
        self._digests.extend(digests)
        self._bytes += len(commit.encoded)
        while self._bytes > self._max_bytes and self._start < len(self._held) - 1:
            self._bytes -= len(self._held[self._start].encoded)
            self._start += 1
            self.first_seq = self._held[self._start].first_seq
        if self._start > _TRIM_SLACK:
            del self._held[: self._start], self._last_seqs[: self._start]
            self._start = 0
        self.wake()

    def restart(self, seq: int, chain: bytes, digest: bytes) -> None:
        """From a snapshot of the state after event `seq`: nothing before it is known here any more."""
        self.seq, self.chain, self.first_seq = seq, chain, seq + 1
        self._held.clear()
        self._last_seqs.clear()
        self._bytes = self._start = 0
        self._digests.clear()
        self._digests.append(digest)
        self.wake()

    def wake(self) -> None:
        """Whoever waits for a change looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, seq: int) -> None:
        """Returns when there is something after `seq`, or when woken."""
        if self.seq <= seq:
            await self._changed.wait()

    def next_batch(self, seq: int) -> list[Held] | None:
        """What to send to somebody who wants `seq` next, within the limits of one message; None: fallen out."""
        if seq < self.first_seq:
            return None
        batch: list[Held] = []
        events = size = 0
        for index in range(self._index(seq), len(self._held)):
            held = self._held[index]
            events += held.last_seq - held.first_seq + 1
            size += len(held.encoded)
            if batch and (events > BATCH_EVENTS or size > BATCH_BYTES):
                break
            batch.append(held)
        return batch

    def commit_with(self, seq: int) -> Commit | None:
        """The commit that event `seq` is in, if it is held."""
        if not self.first_seq <= seq <= self.seq:
            return None
        return decode_commit(self._held[self._index(seq)].encoded)

    def chain_at(self, seq: int) -> bytes | None:
        """Chain digest of event `seq`, if it is known here."""
        if seq == 0:
            return CHAIN_START
        if seq == self.seq:
            return self.chain
        if not self.first_seq <= seq <= self.seq:
            return None
        held = self._held[self._index(seq)]
        if held.last_seq == seq:
            return held.chain_after
        commit = decode_commit(held.encoded)
        return chain_over(commit.chain_before, commit.records[: seq - commit.first_seq + 1])

    @property
    def first_digest_seq(self) -> int:
        """The oldest event whose state digest is remembered."""
        return self.seq - len(self._digests) + 1

    def digest_at(self, seq: int) -> bytes | None:
        """State digest after event `seq`, if it is remembered."""
        age = self.seq - seq
        return self._digests[-1 - age] if 0 <= age < len(self._digests) else None

    def _index(self, seq: int) -> int:
        return bisect_left(self._last_seqs, seq, self._start)
