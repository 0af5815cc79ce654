"""What a wrong replica, snapshot, archive or clock may cost: nothing of the log, and status says what is wrong."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest

from kilim.controlplane import keeper as keeper_module
from kilim.controlplane.replica import Replica
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.keys import Keys
from kilim.kvstore.keyvalue import prefix_range
from kilim.kvstore.log import EventLog
from kilim.kvstore.segments import SegmentDirectory
from kilim.kvstore.snapshots import SnapshotStore
from kilim.model.fold import fold_record
from kilim.model.snapshot import encode_parts, freeze
from kilim.model.state import State
from kilim.v1 import controlplane_pb2 as api
from tests.contract.controlplane.harness import Running, replica
from tests.contract.controlplane.test_keeper import fill_slowly, set_small, until_trimmed

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One for each round of a keeper that has ended, however it did."""
    ended: list[None] = []
    one_round = keeper_module.Keeper._round

    async def counted(self: keeper_module.Keeper, leads: bool) -> None:
        try:
            await one_round(self, leads)
        finally:
            ended.append(None)

    monkeypatch.setattr(keeper_module.Keeper, "_round", counted)
    monkeypatch.setattr(keeper_module, "RETRY_MOST_S", 0.1)
    return ended


async def pass_rounds(rounds: list[None], count: int = 4) -> None:
    async with asyncio.timeout(20):
        seen = len(rounds)
        while len(rounds) < seen + count:  # noqa: ASYNC110  # they cannot be awaited
            await asyncio.sleep(0.01)


async def folded(client: EtcdClient, cluster: str, to_seq: int) -> State:
    state = State()
    async for commit in EventLog(client, cluster).read(1, to_seq):
        for number, record in enumerate(commit.records):
            fold_record(state, commit.first_seq + number, record)
    return state


async def test_a_replica_whose_state_is_wrong_keeps_nothing(
    etcd: EmbeddedEtcd, cluster: str, replicas: list[Replica], rounds: list[None]
) -> None:
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05) as r:
        await set_small(r)
        await r.fill(5)
        replicas[0].state.put("namespace", "forged", b"\n\x06forged")
        await r.until(lambda status: any("its events give" in problem for problem in status.problems))
        before = (await r.status()).log
        for turn in range(10):
            await r.fill(10, f"b{turn}-")
            await pass_rounds(rounds, 1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await r.log.Compact(api.CompactRequest(), timeout=60)
        assert "the state of this replica is in doubt" in (caught.value.details() or "")
        after = await r.status()
        assert (after.log.first_seq, list(after.log.snapshots)) == (1, list(before.snapshots))
    client = EtcdClient(etcd.endpoints)
    right = (await folded(client, cluster, after.seq)).digest
    assert right != after.state_digest
    async with replica(etcd.endpoints, cluster, "again", keep_every_s=0.05) as r:
        assert (await r.status()).state_digest == right
        await fill_slowly(r, 6, "right")
        assert (await until_trimmed(r)).ok
    await client.close()


async def test_a_state_that_no_alarm_is_about_is_proven_all_the_same(
    etcd: EmbeddedEtcd, cluster: str, replicas: list[Replica], rounds: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The auditor's copy is of the wrong state, and there is no other replica: the log itself says no."""
    monkeypatch.setattr("kilim.controlplane.auditor.Auditor.problems", lambda self: [])
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05) as r:
        await r.fill(5)
        replicas[0].state.put("namespace", "forged", b"\n\x06forged")
        await set_small(r)
        await r.fill(40, "more")
        status = await r.until(lambda status: "is not what the log gives" in status.log.error)
        assert "start it again" in status.log.error and not status.ok
        assert (status.log.first_seq, len(status.log.snapshots)) == (1, 0)


async def put_back(client: EtcdClient, keys: Keys, backup: list[Any]) -> None:
    for prefix in (keys.log, keys.snapshots, keys.snapshot_parts):
        await client.delete_range(*prefix_range(prefix))
    for kv in backup:
        await client.put(kv.key, kv.value)


async def test_an_older_backup_put_back_under_a_running_leader(
    etcd: EmbeddedEtcd, cluster: str, rounds: list[None]
) -> None:
    client, keys = EtcdClient(etcd.endpoints), Keys(cluster)
    store = SnapshotStore(client, cluster)
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05) as r:
        await set_small(r)
        head = await r.fill(10)
        passing = (b"/member/", b"/leader", b"reserve")
        found = (await client.get_range(*prefix_range(keys.prefix))).kvs
        backup = [kv for kv in found if not any(word in kv.key for word in passing)]
        lost = await r.fill(40, "lost")
        await r.until(lambda status: lost - max([one.seq for one in status.log.snapshots], default=0) < 20)
        await put_back(client, keys, backup)
        await r.until(lambda status: any("does not follow the log" in problem for problem in status.problems))
        await pass_rounds(rounds)
        assert all(one.seq <= head for one in await store.manifests())
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05) as r:
        await fill_slowly(r, 8, "other")
        status = await until_trimmed(r)
        assert status.ok, status.problems
        await check_base(client, cluster, status.log.first_seq)
    await client.close()


async def check_base(client: EtcdClient, cluster: str, at_least: int) -> None:
    start = await EventLog(client, cluster).start()
    assert start.first_seq >= at_least
    base = next(one for one in await SnapshotStore(client, cluster).manifests() if one.seq == start.first_seq - 1)
    assert base.chain == start.chain_before


async def test_snapshots_of_another_history_are_named_and_never_relied_on(
    etcd: EmbeddedEtcd, cluster: str, rounds: list[None]
) -> None:
    client = EtcdClient(etcd.endpoints)
    store = SnapshotStore(client, cluster)
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05) as r:
        await set_small(r)
        head = await r.fill(4)
        empty = freeze(State())
        await store.publish(head + 30, b"\x11" * 32, empty.state_digest, 1, encode_parts(empty))
        status = await r.until(lambda status: len(status.problems) > 0)
        assert status.problems == [
            f"snapshot at event {head + 30} is not of this log: the log ends before it, at event {head}"
        ]
        await pass_rounds(rounds)
        assert head + 30 in {one.seq for one in await store.manifests()}, "it may be all that is left"
        await r.fill(24, "up-to-it")
        await r.until(lambda status: len(status.log.snapshots) > 0)  # it does not stop new ones
        await fill_slowly(r, 8, "beyond")
        status = await until_trimmed(r)
        assert [problem for problem in status.problems if "it was removed" in problem]
        assert b"\x11" * 32 not in {one.chain for one in await store.manifests()}
        await check_base(client, cluster, status.log.first_seq)
    await client.close()


async def test_a_snapshot_that_the_log_does_not_give_goes(etcd: EmbeddedEtcd, cluster: str, rounds: list[None]) -> None:
    """Its chain is right, its parts are what its manifest says, and its state is another one: a replica that starts
    from it knows nothing better."""
    client = EtcdClient(etcd.endpoints)
    store = SnapshotStore(client, cluster)
    async with replica(etcd.endpoints, cluster, keep_every_s=60) as r:
        await r.fill(5)
        status = await r.status()
    forged = await folded(client, cluster, status.seq)
    forged.put("namespace", "forged", b"\n\x06forged")
    await store.publish(status.seq, status.chain, forged.digest, 1, encode_parts(freeze(forged)))
    async with replica(etcd.endpoints, cluster, "misled", keep_every_s=0.05) as r:
        assert (await r.status()).state_digest == forged.digest
        await set_small(r)
        await r.fill(40, "more")
        status = await r.until(lambda status: "is not what the log gives" in status.log.error)
        assert await store.manifests() == []
        assert [problem for problem in status.problems if "it was removed" in problem]
    async with replica(etcd.endpoints, cluster, "again", keep_every_s=0.05) as r:
        status = await r.until(lambda status: len(status.log.snapshots) > 0)
        assert status.ok and status.state_digest == (await folded(client, cluster, status.seq)).digest
    await client.close()


async def test_where_no_snapshot_is_whole_a_new_one_is_asked_for(etcd: EmbeddedEtcd, cluster: str) -> None:
    client = EtcdClient(etcd.endpoints)
    store = SnapshotStore(client, cluster)
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05) as r:
        await set_small(r)
        await fill_slowly(r, 8)
        await until_trimmed(r)
    async with replica(etcd.endpoints, cluster, keep_every_s=60) as r:
        await r.until(lambda status: len(status.log.snapshots) > 0)
        for manifest in await store.manifests():
            await client.put(Keys(cluster).part(manifest.seq, 0), b"rot")
        head = await r.fill(3, "more")
        assert (await r.log.Compact(api.CompactRequest(), timeout=60)).snapshot_seq == head
        right = (await r.status()).state_digest
    async with replica(etcd.endpoints, cluster, "again", keep_every_s=0.05) as r:
        assert (await r.status()).state_digest == right
        await fill_slowly(r, 8, "on")
        await until_trimmed(r, head)
    await client.close()


async def test_an_alarm_about_a_snapshot_stays_while_it_is_there(
    etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilim.controlplane.agreement.LOOK_EVERY_S", 0.05)
    client = EtcdClient(etcd.endpoints)
    store = SnapshotStore(client, cluster)
    async with replica(etcd.endpoints, cluster, keep_every_s=60) as one:
        await one.fill(5)
        manifests: list[Any] = []
        monkeypatch.setattr(keeper_module.Keeper, "manifests", property(lambda self: manifests))
        head = await one.status()
        manifests.append(await store.publish(head.seq, head.chain, b"w" * 32, 1, []))
        await one.until(lambda status: any("snapshot: its state digest" in problem for problem in status.problems))
        await one.fill(5, "more")
        newer = await one.status()
        manifests.append(manifests[0].__class__(newer.seq, newer.chain, newer.state_digest, 1, (), 0, 0))
        asked = asyncio.Event()
        monkeypatch.setattr(
            keeper_module.Keeper,
            "manifests",
            property(lambda self: asked.set() or manifests),  # type: ignore[func-returns-value]
        )
        for _ in range(3):
            asked.clear()
            await asked.wait()
        status = await one.status()
        assert any(f"its state digest at seq {head.seq} is" in problem for problem in status.problems)
        del manifests[0]
        await one.until(lambda status: status.ok)
    await client.close()


@pytest.mark.parametrize("how", ["emptied", "removed", "replaced"])
async def test_an_archive_that_is_not_there_is_not_relied_on(
    etcd: EmbeddedEtcd, cluster: str, tmp_path: Path, how: str
) -> None:
    folder = tmp_path / "archive"
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05, log_archive_dir=folder) as r:
        await set_small(r)
        await fill_slowly(r, 3)
        status = await r.until(lambda status: status.log.archived_seq > 10)  # up to whichever snapshot came last
        if how == "emptied":
            for path in folder.iterdir():
                path.unlink()
        elif how == "removed":
            shutil.rmtree(folder)
        else:
            for path in folder.iterdir():
                path.write_bytes(b"rot" * 100)
        held_seq = (await EventLog(client := EtcdClient(etcd.endpoints), cluster).start()).first_seq
        await add_events(r)
        if how == "replaced":
            status = await r.until(lambda status: "not what it was" in status.log.error or not status.ok)
            assert (await r.status()).log.first_seq == held_seq
        else:
            status = await until_trimmed(r, held_seq)
            archive = SegmentDirectory([folder])
            assert archive.span().first_seq <= held_seq
            assert len(list(archive.commits(held_seq, status.log.first_seq - 1))) > 0
    await client.close()


async def add_events(r: Running) -> None:
    for turn in range(12):
        await r.fill(10, f"after{turn}-")


async def test_a_clock_that_jumps_takes_no_history(
    etcd: EmbeddedEtcd, cluster: str, rounds: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    async with replica(etcd.endpoints, cluster, keep_every_s=0.05) as r:
        await set_small(r, log_retention_events="100000", snapshot_retention_count="4")
        await fill_slowly(r, 8)
        before = await r.until(lambda status: len(status.log.snapshots) >= 3)
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + 10 * 365 * 86400 * 10**9)
        await r.fill(60, "from-the-future")
        await pass_rounds(rounds, 6)
        after = await r.status()
        assert after.log.first_seq == 1 and len(after.log.snapshots) >= len(before.log.snapshots)
        monkeypatch.setattr(keeper_module, "AGE_HOLDS_S", 0.0)  # as if it had held for long: there time goes on
        await until_trimmed(r)
