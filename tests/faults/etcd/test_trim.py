"""Trims while etcd dies: at every moment the log is whole from its start on, and who is late is told Trimmed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from kilim.kvstore import trim
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import CHAIN_START
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.errors import NoSpace, OutcomeUnknown, Trimmed, Unavailable
from kilim.kvstore.log import EventLog
from kilim.kvstore.snapshots import SnapshotStore


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


class _Crowd:
    """A writer, two trimmers, a reader that begins at the start each time, followers of which one is always late."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self.stopped = False
        self.wrote: list[bytes] = []
        self.followed: dict[int, bytes] = {}
        self.missed: set[int] = set()
        self.readings = self.told_reading = self.told_following = 0

    async def write(self) -> None:
        log, rng = EventLog(self._client), random.Random(1)
        head = await log.head()
        while not self.stopped:
            records = [b"%d" % (len(self.wrote) + n) for n in range(rng.randint(1, 9))]
            with contextlib.suppress(Unavailable):
                _, head = await log.append(head, records)
                self.wrote += records

    async def trim(self) -> None:
        log = EventLog(self._client)
        while not self.stopped:
            with contextlib.suppress(Unavailable, OutcomeUnknown):
                await log.trim((await log.head()).last_seq - 100)

    async def read(self) -> None:
        log = EventLog(self._client)
        first = 1
        while not self.stopped:
            try:
                records = [(c.first_seq, c.records) async for c in log.read(first)]
            except Trimmed as trimmed:
                assert trimmed.first_seq > first
                first = trimmed.first_seq
                self.told_reading += 1
            except Unavailable:
                continue
            else:
                await _until(lambda records=records: not records or len(self.wrote) >= records[-1][0])  # type: ignore[misc]
                for seq, held in records:
                    self._check(seq, list(held))
                self.readings += 1

    async def follow(self) -> None:
        """All of it, but for what is trimmed before it comes to it after an outage."""
        log, next_seq, chain = EventLog(self._client), 1, CHAIN_START
        while True:
            try:
                async with contextlib.aclosing(log.follow(next_seq, chain)) as commits:
                    async for commit in commits:
                        assert (commit.first_seq, commit.chain_before) == (next_seq, chain)
                        self.followed.update(enumerate(commit.records, commit.first_seq))
                        next_seq, chain = commit.last_seq + 1, commit.chain_after
            except Trimmed as trimmed:
                assert trimmed.first_seq > next_seq
                start = await log.start()
                self.missed |= set(range(next_seq, start.first_seq))
                next_seq, chain = start.first_seq, start.chain_before

    async def follow_late(self) -> None:
        """From where the log begins, but only after a while."""
        log = EventLog(self._client)
        while not self.stopped:
            try:
                start = await log.start()
                written = len(self.wrote)
                await _until(lambda written=written: self.stopped or len(self.wrote) > written + 150)  # type: ignore[misc]
                async with contextlib.aclosing(log.follow(start.first_seq, start.chain_before)) as commits:
                    await anext(commits)
            except Trimmed:
                self.told_following += 1
            except Unavailable:
                continue

    def _check(self, seq: int, records: list[bytes]) -> None:
        expected = self.wrote[seq - 1 : seq - 1 + len(records)]
        assert records[: len(expected)] == expected


async def test_kill_9_under_appends_trims_and_readers(
    etcd: EmbeddedEtcd, client: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trim, "_STEP_SEQS", 40)
    crowd = _Crowd(client)
    following = asyncio.create_task(crowd.follow())
    working = [
        asyncio.create_task(one)
        for one in (crowd.write(), crowd.trim(), crowd.trim(), crowd.read(), crowd.follow_late())
    ]
    try:
        for more in range(1, 6):
            enough = len(crowd.wrote) + 400
            await _until(lambda enough=enough: len(crowd.wrote) >= enough or any(t.done() for t in working))  # type: ignore[misc]
            assert not any(task.done() for task in working), more
            await _until(lambda: etcd.pid is not None)
            assert etcd.pid is not None
            os.kill(etcd.pid, signal.SIGKILL)
        await _until(lambda: crowd.told_reading >= 5 and crowd.told_following >= 2 and crowd.readings >= 5)
    finally:
        crowd.stopped = True
        await asyncio.gather(*working)
    log = EventLog(client)
    await _until(lambda: following.done() or len(crowd.followed) + len(crowd.missed) >= len(crowd.wrote))
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert all(crowd.wrote[seq - 1] == record for seq, record in crowd.followed.items())
    assert crowd.followed.keys() | crowd.missed == set(range(1, len(crowd.wrote) + 1))
    start = await log.trim((await log.head()).last_seq - 10)
    left = [record async for commit in log.read(start.first_seq) for record in commit.records]
    assert left == crowd.wrote[start.first_seq - 1 :]


async def test_what_works_in_a_full_etcd(tmp_path: Path) -> None:
    """Deleting snapshots does, trimming does not: it writes. So space is made first."""
    async with EmbeddedEtcd(tmp_path, quota_bytes=4 << 20) as etcd:
        client = EtcdClient(etcd.endpoints)
        log, store = EventLog(client), SnapshotStore(client)
        head = await log.head()
        for n in range(20):
            _, head = await log.append(head, [b"%d" % n])
        with pytest.raises(NoSpace):
            for seq in range(1, 1000):
                await store.publish(seq, bytes(32), bytes(32), 0, [[bytes(300_000)]])
        with pytest.raises(NoSpace):
            await log.trim(11)
        assert (await log.start()).first_seq == 1
        assert len([commit async for commit in log.read(1)]) == 20
        complete = await store.manifests()
        for manifest in complete[:-1]:
            await store.delete(manifest.seq)
        await store.sweep()
        assert await store.manifests() == complete[-1:]
        found = await client.get_range("x", b"")
        await client.maintenance.compact(found.revision, physical=True)
        await client.maintenance.defragment(etcd.endpoints[0])
        await client.maintenance.disarm_nospace()
        assert (await log.trim(11)).first_seq == 11
        await log.append(head, [b"again"])
        await client.close()
