"""The present state as parts for whoever is far behind: one consistent copy, shared by all who ask.

Easy to get wrong: the copy is of references to immutable bytes and made at once; encoding comes after, with the loop
free in between, when the state has moved on already.
"""

import asyncio

from kilim.controlplane.replica import Replica
from kilim.model.snapshot import encode_parts, freeze
from kilim.v1 import controlplane_pb2 as api

SHARED_EVENTS = 5_000


class Snapshots:
    """The last one is kept while it is near the head, so that many agents starting at once cost one."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._last: list[bytes] = []
        self._last_seq = -1
        self._making = asyncio.Lock()

    async def take(self) -> tuple[int, list[bytes]]:
        """(seq, serialised SubscribeResponses). Commits from seq + 1 on are in memory when this returns."""
        history = self._replica.history
        async with self._making:
            oldest = max(history.first_seq - 1, history.seq - SHARED_EVENTS)
            if self._last_seq < oldest or not self._last:
                self._last_seq, self._last = await self._make()
            return self._last_seq, self._last

    async def _make(self) -> tuple[int, list[bytes]]:
        chain, frozen = self._replica.chain, freeze(self._replica.state)
        parts = [api.SnapshotPart(seq=frozen.seq, chain=chain, state_digest=frozen.state_digest)]
        for number, records in enumerate(encode_parts(frozen)):
            if number > 0:
                parts.append(api.SnapshotPart(seq=frozen.seq, chain=chain, state_digest=frozen.state_digest))
            parts[-1].records.extend(records)
            await asyncio.sleep(0)
        parts[-1].last = True
        return frozen.seq, [api.SubscribeResponse(snapshot=part).SerializeToString() for part in parts]
