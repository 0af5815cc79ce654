"""What has arrived from the log and is not applied yet: bounded, taken all at once.

Easy to get wrong: `start` throws away what an earlier stream left, so nothing of two streams is ever mixed.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from kilim.v1 import controlplane_pb2 as pb


@dataclass(frozen=True, slots=True)
class Begun:
    """A stream begins; `from_scratch`: with an empty state, else behind what was applied before."""

    from_scratch: bool


@dataclass(frozen=True, slots=True)
class SnapshotArrived:
    part: pb.SnapshotPart


@dataclass(frozen=True, slots=True)
class CommitsArrived:
    encoded: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class HeadArrived:
    """Everything up to `seq` has been sent."""

    seq: int
    chain: bytes


Arrival = Begun | SnapshotArrived | CommitsArrived | HeadArrived


class Inbox:
    """One writer (the subscription), one reader (the enforcement)."""

    def __init__(self, limit_bytes: int = 16 << 20) -> None:
        self._limit_bytes = limit_bytes
        self._arrivals: deque[Arrival] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()

    def start(self, begun: Begun) -> None:
        self._arrivals.clear()
        self._bytes = 0
        self._push(begun)

    async def put(self, arrival: Arrival, size_bytes: int) -> None:
        """Waits while too much is unread: the server is then held back by HTTP/2's flow control."""
        while self._bytes > self._limit_bytes:
            self._drained.clear()
            await self._drained.wait()
        self._bytes += size_bytes
        self._push(arrival)

    async def take(self) -> list[Arrival]:
        """All that is there; waits for something."""
        await self._filled.wait()
        taken = list(self._arrivals)
        self._arrivals.clear()
        self._bytes = 0
        self._filled.clear()
        return taken

    def release(self) -> None:
        """The reader has applied what it took."""
        if not self._arrivals:
            self._drained.set()

    async def wait_drained(self) -> None:
        """Until the reader has applied everything that was put."""
        while self._filled.is_set() or not self._drained.is_set():
            await self._drained.wait()
            await asyncio.sleep(0)

    def _push(self, arrival: Arrival) -> None:
        self._arrivals.append(arrival)
        self._drained.clear()
        self._filled.set()
