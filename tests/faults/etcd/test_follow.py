"""Followers through the deaths, pauses and silences of etcd: every commit once, in order, by chain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

import pytest

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import CHAIN_START, Commit
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.errors import Conflict, LogBroken, OutcomeUnknown, Unavailable
from kilim.kvstore.head import LogHead
from kilim.kvstore.log import EventLog


class Relay(Protocol):
    answers: asyncio.Event

    @property
    def endpoint(self) -> str: ...

    def drop_connections(self) -> None: ...


async def _follow(log: EventLog, upto: int, seen: list[Commit]) -> None:
    """That it is dense and chained is the follower's promise; the test looks for itself."""
    next_seq, chain = 1, CHAIN_START
    async with contextlib.aclosing(log.follow(1, CHAIN_START)) as commits:
        async for commit in commits:
            assert (commit.first_seq, commit.chain_before) == (next_seq, chain)
            next_seq, chain = commit.last_seq + 1, commit.chain_after
            seen.append(commit)
            if commit.last_seq >= upto:
                return


async def _write(log: EventLog, count: int, size: int = 1) -> list[bytes]:
    """Appends what must be in the log, once each, whatever happens meanwhile. One writer, so no conflicts."""
    head = await log.head()
    wrote: list[bytes] = []
    while len(wrote) < count:
        records = [b"%d" % (len(wrote) + n) for n in range(size)]
        try:
            _, head = await log.append(head, records)
        except Unavailable:
            continue
        wrote += records
    return wrote


async def _until(condition: Callable[[], bool], pause_s: float = 0.005) -> None:
    async with asyncio.timeout(30):
        while True:
            if condition():
                return
            await asyncio.sleep(pause_s)


async def _until_more(seen: list[Commit], more: int) -> None:
    enough = len(seen) + more
    await _until(lambda: len(seen) >= enough)


async def _kill(etcd: EmbeddedEtcd, number: int = signal.SIGKILL) -> None:
    """The next life included: waits for an etcd to kill."""
    await _until(lambda: etcd.pid is not None)
    assert etcd.pid is not None
    os.kill(etcd.pid, number)


def _records(commits: list[Commit]) -> list[bytes]:
    return [record for commit in commits for record in commit.records]


async def test_kill_9_while_appending_and_following(etcd: EmbeddedEtcd, client: EtcdClient) -> None:
    log = EventLog(client)
    seen: list[Commit] = []
    following = asyncio.create_task(_follow(EventLog(client), 1200, seen))
    writing = asyncio.create_task(_write(log, 1200))
    for least in (200, 600, 900):
        await _until(lambda least=least: len(seen) >= least)  # type: ignore[misc]
        await _kill(etcd)
    wrote = await writing
    await following
    assert _records(seen) == wrote


async def test_kill_9_while_catching_up(etcd: EmbeddedEtcd, client: EtcdClient) -> None:
    log = EventLog(client)
    wrote = await _write(log, 20_000, size=20)
    seen: list[Commit] = []
    following = asyncio.create_task(_follow(log, 20_000, seen))
    await _until(lambda: len(seen) >= 300, pause_s=0)
    await _kill(etcd)
    await following
    assert _records(seen) == wrote


async def test_a_pause_of_etcd_is_waited_out(etcd: EmbeddedEtcd, client: EtcdClient) -> None:
    log = EventLog(client)
    seen: list[Commit] = []
    following = asyncio.create_task(_follow(log, 40, seen))
    first = await _write(log, 20)
    await _kill(etcd, signal.SIGSTOP)
    with pytest.raises((OutcomeUnknown, Unavailable)):
        await log.append(LogHead(99, CHAIN_START, 1 << 40, ""), [b"never"], timeout_s=2.0)
    await _kill(etcd, signal.SIGCONT)
    second = await _write(log, 20)
    await following
    assert _records(seen) == first + second


async def test_compaction_while_the_follower_is_cut_off(client: EtcdClient, relay: Relay) -> None:
    direct, relayed = EventLog(client), EtcdClient([relay.endpoint])
    seen: list[Commit] = []
    following = asyncio.create_task(_follow(EventLog(relayed), 60, seen))
    first = await _write(direct, 30)
    await _until(lambda: len(seen) >= 30)
    relay.answers.clear()
    second = await _write(direct, 30)
    await client.maintenance.compact((await direct.head()).mod_revision, physical=True)
    relay.drop_connections()
    relay.answers.set()
    await following
    assert _records(seen) == first + second
    await relayed.close()


async def test_a_watch_that_falls_silent_is_noticed(etcd: EmbeddedEtcd, client: EtcdClient, relay: Relay) -> None:
    """The connection stays up and says nothing more: reading the head elsewhere tells that there is more."""
    direct, both = EventLog(client), EtcdClient([relay.endpoint, *etcd.endpoints])
    seen: list[Commit] = []
    following = asyncio.create_task(_follow(EventLog(both), 20, seen))
    first = await _write(direct, 10)
    await _until(lambda: len(seen) >= 10)
    relay.answers.clear()
    second = await _write(direct, 10)
    async with asyncio.timeout(10):
        await following
    assert _records(seen) == first + second
    await both.close()


async def test_an_etcd_that_lost_its_data_is_a_broken_log(tmp_path: Path) -> None:
    etcd = EmbeddedEtcd(tmp_path)
    await etcd.start()
    client = EtcdClient(etcd.endpoints)
    log = EventLog(client)
    await _write(log, 5)
    async with contextlib.aclosing(log.follow(1, CHAIN_START)) as commits:
        for _ in range(5):
            await anext(commits)
        pending = asyncio.ensure_future(anext(commits))
        await etcd.stop()
        shutil.rmtree(tmp_path / "etcd")
        await etcd.start()
        with pytest.raises(LogBroken, match="lost data"):
            await pending
    await client.close()
    await etcd.stop()


@contextlib.asynccontextmanager
async def _three_members(folder: Path) -> AsyncIterator[list[EmbeddedEtcd]]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(6)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    cluster = ",".join(f"m{n}=http://127.0.0.1:{ports[n]}" for n in range(3))
    members = [
        EmbeddedEtcd(
            folder / f"m{n}", name=f"m{n}", peer_port=ports[n], client_port=ports[3 + n], initial_cluster=cluster
        )
        for n in range(3)
    ]
    try:
        await asyncio.gather(*(member.start() for member in members))
        yield members
    finally:
        await asyncio.gather(*(member.stop() for member in members))


async def test_leaders_die_and_pause_under_two_writers_and_a_follower(tmp_path: Path) -> None:
    """Each writer's successes are in the log once and in its order; what it was unsure of at most once."""
    rng = random.Random(11)
    async with _three_members(tmp_path) as members:
        endpoints = [endpoint for member in members for endpoint in member.endpoints]
        clients = [EtcdClient(rng.sample(endpoints, 3)) for _ in range(3)]
        stop = asyncio.Event()
        seen: list[Commit] = []
        following = asyncio.create_task(_follow(EventLog(clients[0]), 1 << 62, seen))
        writers = [asyncio.create_task(_write_until(EventLog(client), n, stop)) for n, client in enumerate(clients[1:])]
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL):
            await _until_more(seen, 60)
            await _hurt_leader(clients[0], members, number, seen)
        stop.set()
        histories = await asyncio.gather(*writers)
        head = await EventLog(clients[0]).head()
        await _until(lambda: bool(seen) and seen[-1].last_seq >= head.next_seq - 1)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        for client in clients:
            await client.close()
    records = _records(seen)
    assert len(set(records)) == len(records)
    for sure, unsure in histories:
        assert [record for record in records if record in set(sure)] == sure
        sure_or_not = set(sure) | set(unsure)
        assert all(record in sure_or_not for record in records if record.split(b"-")[0] == sure[0].split(b"-")[0])


async def _hurt_leader(client: EtcdClient, members: list[EmbeddedEtcd], number: int, seen: list[Commit]) -> None:
    leaders = [one.endpoint for one in await client.status() if one.is_leader]
    leader = next((member for member in members if member.endpoints[0] in leaders), members[0])
    pid = leader.pid
    await _kill(leader, number)
    if number == signal.SIGSTOP and pid is not None:
        await _until_more(seen, 20)
        os.kill(pid, signal.SIGCONT)


async def _write_until(log: EventLog, writer: int, stop: asyncio.Event) -> tuple[list[bytes], list[bytes]]:
    head = await log.head()
    sure: list[bytes] = []
    unsure: list[bytes] = []
    for n in range(1 << 30):
        if stop.is_set():
            break
        record = b"%d-%d" % (writer, n)
        while True:
            try:
                _, head = await log.append(head, [record])
            except Conflict as conflict:
                head = conflict.head
            except Unavailable:
                continue
            except OutcomeUnknown:
                unsure.append(record)
                head = await log.head()
                break
            else:
                sure.append(record)
                break
    return sure, unsure
