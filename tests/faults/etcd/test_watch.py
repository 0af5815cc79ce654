"""A watch over cut connections: what it brings is all there was, once, in order."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from kilim.kvstore import transaction
from kilim.kvstore.client import EtcdClient


class Relay(Protocol):
    @property
    def endpoint(self) -> str: ...

    def drop_connections(self) -> None: ...


async def test_cut_while_it_catches_up(client: EtcdClient, relay: Relay) -> None:
    """etcd gives old events in batches of 1,000 revisions; each ends with the connection that brought it."""
    revisions = 4000
    gate = asyncio.Semaphore(50)

    async def put(n: int) -> None:
        async with gate:
            await client.transaction([], [transaction.put(f"key/{n}/{m}", bytes(300)) for m in range(3)])

    await asyncio.gather(*(put(n) for n in range(revisions)))
    relayed = EtcdClient([relay.endpoint])
    seen: list[int] = []
    async with contextlib.aclosing(relayed.watch_prefix("key/", 1)) as batches, asyncio.timeout(20):
        async for batch in batches:
            seen += [event.kv.mod_revision for event in batch]
            if len(seen) >= 3 * revisions:
                break
            relay.drop_connections()
    assert seen == [revision for revision in range(2, 2 + revisions) for _ in range(3)]
    await relayed.close()
