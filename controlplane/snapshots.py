"""The state as parts for a subscriber that is far behind: one consistent copy, shared by all who ask.

Easy to get wrong: the copy is of references to immutable bytes and made at once; encoding comes after, with the loop
free in between, when the state has moved on already.
"""

import asyncio
from collections.abc import Iterator

from kilim.controlplane.history import History
from kilim.model.fold import RULES
from kilim.model.state import Key, State, key_to_bytes
from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import events_pb2 as pb

PART_BYTES = 512 << 10
SHARED_EVENTS = 5_000


class Snapshots:
    """The last one is kept while it is near the head, so that many agents starting at once cost one."""

    def __init__(self, state: State, history: History) -> None:
        self._state = state
        self._history = history
        self._last: list[api.SubscribeResponse] = []
        self._last_seq = -1
        self._making = asyncio.Lock()

    async def take(self) -> tuple[int, list[api.SubscribeResponse]]:
        """(seq, messages). Commits from seq + 1 on are in memory when this returns."""
        async with self._making:
            oldest = max(self._history.first_seq - 1, self._history.seq - SHARED_EVENTS)
            if self._last_seq < oldest or not self._last:
                self._last_seq, self._last = await self._make()
            return self._last_seq, self._last

    async def _make(self) -> tuple[int, list[api.SubscribeResponse]]:
        head = api.SnapshotPart(seq=self._history.seq, chain=self._history.chain, state_digest=self._state.digest)
        tables = freeze(self._state)
        parts: list[api.SubscribeResponse] = []
        records: list[bytes] = []
        size = 0
        for table, key, value in canonical_records(tables):
            record = pb.StateRecord(table=table, key=key, value=value).SerializeToString()
            records.append(record)
            size += len(record) + 4
            if size >= PART_BYTES:
                parts.append(_part(head, records, last=False))
                records, size = [], 0
                await asyncio.sleep(0)
        parts.append(_part(head, records, last=True))
        return head.seq, parts


def freeze(state: State) -> dict[str, dict[Key, bytes]]:
    """Some milliseconds at 100,000 endpoints, against most of a second for `state.records()`."""
    names = {table for table, _, _ in RULES.values()}
    return {name: dict(state.table(name).data) for name in names}  # type: ignore[union-attr]


def canonical_records(tables: dict[str, dict[Key, bytes]]) -> Iterator[tuple[str, bytes, bytes]]:
    """As `State.records()`. Keys of text sort as their UTF-8 does, numbers as their bytes in big-endian order."""
    for name in sorted(tables):
        data = tables[name]
        for key in sorted(data):
            yield name, key_to_bytes(key), data[key]


def _part(head: api.SnapshotPart, records: list[bytes], *, last: bool) -> api.SubscribeResponse:
    part = api.SnapshotPart(seq=head.seq, chain=head.chain, state_digest=head.state_digest, records=records, last=last)
    return api.SubscribeResponse(snapshot=part)
