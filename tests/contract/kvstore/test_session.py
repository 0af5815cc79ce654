"""Presence and leadership under leases."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

import pytest

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.election import Election
from kilim.kvstore.keys import Keys
from kilim.kvstore.log import EventLog
from kilim.kvstore.session import Session

pytestmark = pytest.mark.asyncio(loop_scope="session")

_PATIENCE_S = 15.0


@contextlib.asynccontextmanager
async def _running(*runs: Coroutine[None, None, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(run) for run in runs]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Leases are a matter of clocks: nothing but the clock announces their end."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.01)


async def _exists(client: EtcdClient, key: bytes) -> bool:
    return await client.get(key) is not None


async def test_members_come_change_and_go(client: EtcdClient, cluster: str) -> None:
    session = Session(client, cluster, ttl_s=5)
    async with contextlib.aclosing(session.watch_members()) as changes, asyncio.timeout(_PATIENCE_S):
        assert await anext(changes) == {}
        async with _running(session.run()):
            session.announce("replica1", b"10.0.0.1:4260")
            assert await anext(changes) == {"replica1": b"10.0.0.1:4260"}
            session.announce("replica1", b"10.0.0.2:4260")
            assert await anext(changes) == {"replica1": b"10.0.0.2:4260"}
            assert await session.members() == {"replica1": b"10.0.0.2:4260"}
            assert session.is_live
            await session.close()
            assert not session.is_live
            assert await anext(changes) == {}


async def test_a_lease_taken_away_is_replaced(client: EtcdClient, cluster: str) -> None:
    session = Session(client, cluster, ttl_s=2)
    session.announce("replica1", b"here")
    async with _running(session.run()):
        assert await session.wait_live(_PATIENCE_S)
        first = session.lease_id
        await _until(lambda: _exists(client, Keys(cluster).member("replica1")))
        lease = session._lease
        assert lease is not None
        good_until = lease.good_until
        await lease.revoke()
        lease.good_until = good_until
        await _until(lambda: session.lease_id not in (0, first))
        await _until(lambda: _exists(client, Keys(cluster).member("replica1")))
        assert await session.members() == {"replica1": b"here"}
        await session.close()


async def test_one_leads_and_the_next_takes_over(client: EtcdClient, cluster: str) -> None:
    first, second = Session(client, cluster, ttl_s=5), Session(client, cluster, ttl_s=5)
    one, two = Election(first, "one"), Election(second, "two")
    async with _running(first.run(), second.run(), one.run()) as tasks:
        await _until(lambda: one.is_leader)
        async with _running(two.run()):
            await _until(lambda: two.leader_name == "one")
            assert one.is_leader and not two.is_leader
            for task in (tasks[0], tasks[2]):
                task.cancel()
            await first.close()
            assert not one.is_leader
            await _until(lambda: two.is_leader)
            assert two.leader_name == "two"
            await second.close()


async def test_leadership_ends_by_our_own_clock(client: EtcdClient, cluster: str) -> None:
    """The session's task is gone, as if its process were stopped: nobody tells the election, its clock does."""
    session = Session(client, cluster, ttl_s=1)
    election = Election(session, "one")
    async with _running(election.run()) as _:
        async with _running(session.run()):
            await _until(lambda: election.is_leader)
        await _until(lambda: not election.is_leader)

        async def is_free() -> bool:
            return not await _exists(client, Keys(cluster).leader)

        await _until(is_free)


async def test_a_replica_takes_its_own_key_back_at_once(client: EtcdClient, cluster: str) -> None:
    dead, reborn = Session(client, cluster, ttl_s=60), Session(client, cluster, ttl_s=60)
    async with _running(dead.run(), Election(dead, "one").run()):
        await _until(lambda: _exists(client, Keys(cluster).leader))
    election = Election(reborn, "one")
    async with _running(reborn.run(), election.run()):
        await _until(lambda: election.is_leader)
        await reborn.close()
    await dead.close()


async def test_no_lease_deletes_a_fact(client: EtcdClient, cluster: str) -> None:
    log = EventLog(client, cluster)
    session = Session(client, cluster, ttl_s=5)
    session.announce("replica1", b"")
    election = Election(session, "replica1")
    async with _running(session.run(), election.run()):
        await _until(lambda: election.is_leader)
        await log.append(await log.head(), [b"fact"])
        leased = {kv.key for kv in (await client.get_prefix(Keys(cluster).prefix)).kvs if kv.lease}
        await session.close()
    assert leased <= {Keys(cluster).leader, Keys(cluster).member("replica1")}
    assert [commit.records async for commit in log.read(1)] == [(b"fact",)]
