"""The present state as parts for whoever is far behind: one consistent copy, shared by all who ask.

Easy to get wrong: the copy is of references to immutable bytes and made at once; encoding comes after, with the loop
free in between, when the state has moved on already. It belongs to nobody: who asked first may go away meanwhile, and
hears of a part as soon as it is made, as seconds of silence would send an agent elsewhere.
"""

import asyncio
from collections.abc import AsyncIterator

from kilim.controlplane.replica import Replica
from kilim.model.snapshot import Frozen, encode_parts, freeze
from kilim.v1 import controlplane_pb2 as api

SHARED_EVENTS = 5_000


class Snapshot:
    """Serialised SubscribeResponses, perhaps still being made."""

    def __init__(self, frozen: Frozen, chain: bytes) -> None:
        self.seq = frozen.seq
        self._chain = chain
        self._state_digest = frozen.state_digest
        self._parts: list[bytes] = []
        self._grown = asyncio.Event()
        self._making = asyncio.create_task(self._make(frozen), name=f"snapshot {frozen.seq}")

    @property
    def failed(self) -> bool:
        return self._making.done() and (self._making.cancelled() or self._making.exception() is not None)

    async def parts(self) -> AsyncIterator[bytes]:
        """All of them, each as soon as it is there. Raises what went wrong."""
        given = 0
        while given < len(self._parts) or not self._making.done():
            if given < len(self._parts):
                yield self._parts[given]
                given += 1
            else:
                await self._grown.wait()
        self._making.result()

    async def _make(self, frozen: Frozen) -> None:
        try:
            waiting: list[bytes] = []
            for number, records in enumerate(encode_parts(frozen)):
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
    """The last one is kept while it is near the head, so that many agents starting at once cost one."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._last: Snapshot | None = None

    def take(self) -> Snapshot:
        """Commits from its seq + 1 on are in memory when this returns."""
        history = self._replica.history
        oldest = max(history.first_seq - 1, history.seq - SHARED_EVENTS)
        if self._last is None or self._last.seq < oldest or self._last.failed:
            self._last = Snapshot(freeze(self._replica.state), self._replica.chain)
        return self._last
