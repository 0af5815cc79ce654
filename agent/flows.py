"""The datapath's records and counters: the recent drops, and what passed by audit mode alone, in a bounded ring each,
everything else as numbers.

Easy to get wrong: the kernel wakes the reader only when much waits, so a short timer reads the rest.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from kilim.agent.records import (
    DIRECTION_NAMES,
    RECORDS_LOST,
    Events,
    Record,
    decode_records,
    reason_name,
    select_audits,
    select_drops,
)

DROPS_KEPT = 65536
_TIMER_S = 0.1
_READS_AT_ONCE = 8


class Ring(Protocol):
    fd: int

    def read(self, max_records: int = ...) -> Events: ...


class Counted(Protocol):
    @property
    def reason(self) -> int: ...
    @property
    def direction(self) -> int: ...
    @property
    def packets(self) -> int: ...
    @property
    def bytes(self) -> int: ...


class _Recent:
    """The latest records of a kind, in the batches in which they came."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._held = 0
        self._batches: deque[Events] = deque()

    def add(self, batch: Events) -> None:
        if not len(batch):
            return
        self._batches.append(batch)
        self._held += len(batch)
        while self._held > self._kept and len(self._batches) > 1:
            self._held -= len(self._batches.popleft())

    def since(self, time_ns: int) -> list[Record]:
        found: list[Record] = []
        for batch in self._batches:
            later = batch[batch["time_ns"] > time_ns] if time_ns else batch
            if len(later):
                found += decode_records(later)
        return found


class Flows:
    """One reader of the ring."""

    def __init__(self, ring: Ring, kept: int = DROPS_KEPT) -> None:
        self._ring = ring
        self._drops, self._audits = _Recent(kept), _Recent(kept)
        self.records = 0

    async def run(self) -> None:
        """Never ends."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._ring.fd, self.read)
        try:
            while True:
                self.read()
                await asyncio.sleep(_TIMER_S)
        finally:
            loop.remove_reader(self._ring.fd)

    def read(self) -> None:
        """What waits, at most so much that the loop is not held up; what stays wakes us again."""
        for _ in range(_READS_AT_ONCE):
            events = self._ring.read(8192)
            self.records += len(events)
            self._drops.add(select_drops(events))
            self._audits.add(select_audits(events))
            if len(events) < 8192:
                return

    def drops_since(self, time_ns: int) -> list[Record]:
        """Later than `time_ns` (CLOCK_MONOTONIC), oldest first; reads the ring first, so that nothing waits in it."""
        self.read()
        return self._drops.since(time_ns)

    def audits_since(self, time_ns: int) -> list[Record]:
        """The same of what passed by audit mode alone."""
        self.read()
        return self._audits.since(time_ns)


def named_counts(counted: Iterable[Counted]) -> list[tuple[str, str, int, int]]:
    """(reason, direction, packets, bytes) for people, without the ring's own losses."""
    return [
        (reason_name(each.reason), DIRECTION_NAMES[each.direction & 1].lower(), each.packets, each.bytes)
        for each in counted
        if each.reason != RECORDS_LOST
    ]


def lost_records(counted: Iterable[Counted]) -> int:
    return sum(each.packets for each in counted if each.reason == RECORDS_LOST)
