"""Appends whose answers are lost: applied once, and the caller is told the truth."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

import pytest

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.errors import Conflict, NoSpace, OutcomeUnknown, Unavailable
from kilim.kvstore.log import EventLog


class Relay(Protocol):
    answers: asyncio.Event

    @property
    def endpoint(self) -> str: ...

    def drop_connections(self) -> None: ...


async def _wait_seq(log: EventLog, next_seq: int) -> None:
    async with asyncio.timeout(10):
        while True:
            if (await log.head()).next_seq >= next_seq:
                return
            await asyncio.sleep(0.005)


async def test_a_lost_answer_is_recognised(client: EtcdClient, relay: Relay) -> None:
    direct = EventLog(client)
    relayed = EtcdClient([relay.endpoint])
    log = EventLog(relayed)
    _, head = await log.append(await log.head(), [b"1"])
    relay.answers.clear()
    appending = asyncio.create_task(log.append(head, [b"2"]))
    await _wait_seq(direct, 3)
    relay.drop_connections()
    relay.answers.set()
    commit, after = await appending
    assert after == await direct.head()
    assert [one async for one in direct.read(2)] == [commit]
    await log.append(after, [b"3"])
    await relayed.close()


async def test_a_lost_answer_is_recognised_behind_later_appends(client: EtcdClient, relay: Relay) -> None:
    direct = EventLog(client)
    relayed = EtcdClient([relay.endpoint])
    log = EventLog(relayed)
    _, head = await log.append(await log.head(), [b"1"])
    relay.answers.clear()
    appending = asyncio.create_task(log.append(head, [b"2", b"3"]))
    await _wait_seq(direct, 4)
    await direct.append(await direct.head(), [b"4"])
    relay.drop_connections()
    relay.answers.set()
    commit, after = await appending
    assert [one async for one in direct.read(2, 3)] == [commit]
    assert after.next_seq == 4
    with pytest.raises(Conflict) as conflict:
        await log.append(after, [b"late"])
    assert conflict.value.head.next_seq == 5
    await relayed.close()


async def test_a_lost_question_is_a_conflict_when_another_was_faster(client: EtcdClient, relay: Relay) -> None:
    direct = EventLog(client)
    relayed = EtcdClient([relay.endpoint])
    log = EventLog(relayed)
    start = await log.head()
    relay.answers.clear()
    await direct.append(start, [b"faster"])
    appending = asyncio.create_task(log.append(start, [b"slower"]))
    relay.drop_connections()
    relay.answers.set()
    with pytest.raises(Conflict):
        await appending
    assert [one.records async for one in direct.read(1)] == [(b"faster",)]
    await relayed.close()


async def test_no_answer_at_all_is_an_unknown_outcome(client: EtcdClient, relay: Relay) -> None:
    direct = EventLog(client)
    relayed = EtcdClient([relay.endpoint])
    log = EventLog(relayed)
    head = await log.head()
    relay.answers.clear()
    with pytest.raises(OutcomeUnknown):
        await log.append(head, [b"1"], timeout_s=1.0)
    assert (await direct.head()).next_seq == 2
    relay.answers.set()
    await relayed.close()


async def test_no_etcd_at_all_is_surely_not_applied(tmp_path: Path) -> None:
    async with EmbeddedEtcd(tmp_path) as etcd:
        client = EtcdClient(etcd.endpoints)
        log = EventLog(client)
        _, head = await log.append(await log.head(), [b"1"])
    while not (await client.status())[0].error.startswith("UNAVAILABLE: failed to connect"):
        pass
    with pytest.raises(Unavailable):
        await log.append(head, [b"2"], timeout_s=0.5)
    async with EmbeddedEtcd(tmp_path):
        assert await log.head() == head
    await client.close()


async def test_a_full_etcd_says_so_and_recovers(tmp_path: Path) -> None:
    async with EmbeddedEtcd(tmp_path, quota_bytes=3 << 20) as etcd:
        client = EtcdClient(etcd.endpoints)
        log = EventLog(client)
        _, head = await log.append(await log.head(), [b"kept"])
        with pytest.raises(NoSpace):
            while True:
                await client.put("ballast", bytes(400_000))
        with pytest.raises(NoSpace):
            await log.append(head, [b"2"])
        assert [alarm for _, alarm in await client.maintenance.alarms()] == ["NOSPACE"]
        (status,) = await client.status()
        assert status.alarms
        await client.delete("ballast")
        await client.maintenance.compact((await client.get_range("ballast", b"")).revision, physical=True)
        await client.maintenance.defragment(etcd.endpoints[0])
        await client.maintenance.disarm_nospace()
        _, head = await log.append(head, [b"2"])
        assert head.next_seq == 3
        await client.close()
