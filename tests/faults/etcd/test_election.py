"""Leadership while etcd cannot be asked: it ends by our own clock, and comes back with etcd."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.election import Election
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.session import Session


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


async def test_a_stopped_etcd_takes_leadership_with_it(etcd: EmbeddedEtcd, client: EtcdClient) -> None:
    ttl_s = 2
    session = Session(client, ttl_s=ttl_s)
    session.announce("one", b"here")
    election = Election(session, "one")
    tasks = [asyncio.create_task(session.run()), asyncio.create_task(election.run())]
    try:
        await _until(lambda: election.is_leader)
        pid = etcd.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            await _until(lambda: not election.is_leader)
            assert time.monotonic() - stopped <= ttl_s + 0.2
            assert not session.is_live
        finally:
            os.kill(pid, signal.SIGCONT)
        await _until(lambda: election.is_leader)
        assert election.leader_name == "one"
        while await session.members() != {"one": b"here"}:
            pass
        await session.close()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_killed_etcd_does_not(etcd: EmbeddedEtcd, client: EtcdClient) -> None:
    """It is back well within the lease, and a restarted etcd gives every lease its full time again."""
    session = Session(client, ttl_s=10)
    election = Election(session, "one")
    tasks = [asyncio.create_task(session.run()), asyncio.create_task(election.run())]
    try:
        await _until(lambda: election.is_leader)
        lease_id = session.lease_id
        assert etcd.pid is not None
        os.kill(etcd.pid, signal.SIGKILL)
        await client.put("answers", b"again")
        assert election.is_leader and session.lease_id == lease_id
        await session.close()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
