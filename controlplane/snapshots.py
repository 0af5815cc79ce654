"""The present state as parts for whoever is far behind: one consistent copy, shared by all who ask.

Easy to get wrong: the copy is of references to immutable bytes and made at once; encoding comes after, with the loop
free in between, when the state has moved on already. It belongs to nobody: who asked first may go away meanwhile, and
hears of a part as soon as it is made, as seconds of silence would send an agent elsewhere. There are two at most, and
who reads the older one too slowly is sent away: whoever stops reading would otherwise keep a copy of the state (I11).
"""

import asyncio
import time
from collections.abc import AsyncGenerator

from kilim.controlplane.replica import Replica
from kilim.kvstore.errors import Unavailable
from kilim.model.snapshot import Frozen, encode_parts, freeze
from kilim.v1 import controlplane_pb2 as api

SHARED_EVENTS = 5_000
PART_BYTES = 256 << 10  # some 20 ms of the event loop, in which nobody else is served
OLDER_S = 30.0  # for those who are in the middle of the one before


class Snapshot:
    """Serialised SubscribeResponses, perhaps still being made."""

    def __init__(self, frozen: Frozen, chain: bytes) -> None:
        self.seq = frozen.seq
        self._chain = chain
        self._state_digest = frozen.state_digest
        self._parts: list[bytes] = []
        self._grown = asyncio.Event()
        self._ended = False
        self.readers = 0
        self._making = asyncio.create_task(self._make(frozen), name=f"snapshot {frozen.seq}")

    @property
    def failed(self) -> bool:
        return self._making.done() and (self._making.cancelled() or self._making.exception() is not None)

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """All of them, each as soon as it is there. Raises what went wrong, and Unavailable where it took too long."""
        given = 0
        self.readers += 1
        try:
            while not self._ended and (given < len(self._parts) or not self._making.done()):
                if given < len(self._parts):
                    yield self._parts[given]
                    given += 1
                else:
                    await self._grown.wait()
        finally:
            self.readers -= 1
        if self._ended:
            raise Unavailable(f"snapshot {self.seq} was read too slowly and is held no longer: ask again")
        self._making.result()

    def end(self) -> None:
        """Nobody gets any more of it."""
        self._ended = True
        self._parts.clear()
        self._making.cancel()
        self._wake()

    async def _make(self, frozen: Frozen) -> None:
        try:
            waiting: list[bytes] = []
            for number, records in enumerate(encode_parts(frozen, PART_BYTES)):
                if number > 0:
                    self._add(waiting, last=False)
                waiting = records
                await asyncio.sleep(0)
            self._add(waiting, last=True)
        finally:
            self._wake()

    def _add(self, records: list[bytes], *, last: bool) -> None:
        part = api.SnapshotPart(
            seq=self.seq, chain=self._chain, state_digest=self._state_digest, records=records, last=last
        )
        self._parts.append(api.SubscribeResponse(snapshot=part).SerializeToString())
        self._wake()

    def _wake(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()


class Snapshots:
    """The last one is kept while it is near the head, so that many agents starting at once cost one; the one before,
    while somebody reads it, for a time in which there is no third one."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._last: Snapshot | None = None
        self._before: Snapshot | None = None
        self._replaced_at_s = 0.0

    def take(self) -> Snapshot:
        """Commits from its seq + 1 on are in memory when this returns, or at least in the log."""
        history = self._replica.history
        oldest = max(history.first_seq - 1, history.seq - SHARED_EVENTS)
        last = self._last
        if last is not None and not last.failed and (last.seq >= oldest or not self._can_replace()):
            return last
        if self._before is not None:
            self._before.end()
        self._before = last if last is not None and last.readers else None
        self._replaced_at_s = time.monotonic()
        self._last = Snapshot(freeze(self._replica.state), self._replica.chain)
        return self._last

    def _can_replace(self) -> bool:
        """Those who read the one before have read it, or had their time."""
        return self._before is None or not self._before.readers or time.monotonic() - self._replaced_at_s >= OLDER_S
