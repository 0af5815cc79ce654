"""The datapath's records and counters: the recent drops in a bounded ring, everything else as numbers.

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


class Flows:
    """One reader of the ring."""

    def __init__(self, ring: Ring, kept: int = DROPS_KEPT) -> None:
        self._ring = ring
        self._drops: deque[Events] = deque()
        self._kept = kept
        self._held = 0
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
            self._keep(select_drops(events))
            if len(events) < 8192:
                return

    def drops_since(self, time_ns: int) -> list[Record]:
        """Later than `time_ns` (CLOCK_MONOTONIC), oldest first; reads the ring first, so that nothing waits in it."""
        self.read()
        found: list[Record] = []
        for batch in self._drops:
            later = batch[batch["time_ns"] > time_ns] if time_ns else batch
            if len(later):
                found += decode_records(later)
        return found

    def _keep(self, drops: Events) -> None:
        if not len(drops):
            return
        self._drops.append(drops)
        self._held += len(drops)
        while self._held > self._kept and len(self._drops) > 1:
            self._held -= len(self._drops.popleft())


def named_counts(counted: Iterable[Counted]) -> list[tuple[str, str, int, int]]:
    """(reason, direction, packets, bytes) for people, without the ring's own losses."""
    return [
        (reason_name(each.reason), DIRECTION_NAMES[each.direction & 1].lower(), each.packets, each.bytes)
        for each in counted
        if each.reason != RECORDS_LOST
    ]


def lost_records(counted: Iterable[Counted]) -> int:
    return sum(each.packets for each in counted if each.reason == RECORDS_LOST)
