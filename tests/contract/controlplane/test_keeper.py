"""The past kept in bounds: snapshots taken, the log trimmed, archived, compacted; everybody can go on from there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.errors import Compacted
from kilim.kvstore.keys import Keys
from kilim.kvstore.log import EventLog
from kilim.kvstore.segments import SegmentDirectory
from kilim.kvstore.snapshots import SnapshotStore
from kilim.model.fold import fold_record
from kilim.model.snapshot import decode_records
from kilim.model.state import State
from kilim.v1 import controlplane_pb2 as api
from tests.contract.controlplane.harness import Follower, Running, namespace, replica

pytestmark = pytest.mark.asyncio(loop_scope="session")

SMALL = {"snapshot-every-events": "20", "snapshot-retention-count": "2", "log-retention-events": "40"}


async def set_small(r: Running, **more: str) -> None:
    for name, value in (SMALL | {name.replace("_", "-"): value for name, value in more.items()}).items():
        await r.cluster.ChangeSetting(api.ChangeSettingRequest(name=name, value=value, actor="test"))


async def until_trimmed(r: Running, beyond: int = 1) -> api.StatusResponse:
    return await r.until(lambda status: status.log.first_seq > beyond)


async def fill_slowly(r: Running, rounds: int, prefix: str = "ns") -> int:
    """Some events at a time, so that the keeper gets its turn in between."""
    head = 0
    for turn in range(rounds):
        head = await r.fill(10, f"{prefix}{turn}-")
        taken = head - 25
        await r.until(lambda status, taken=taken: taken < max([one.seq for one in status.log.snapshots], default=0))
    return head


async def test_the_log_is_trimmed_and_everybody_goes_on(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05) as r:
        early, late = Follower(State()), Follower(State())
        await early.follow(r, 0)
        await set_small(r)
        await fill_slowly(r, 15)
        status = await until_trimmed(r)
        first, snapshots = status.log.first_seq, [one.seq for one in status.log.snapshots]
        assert first - 1 in snapshots and len(snapshots) >= 2
        assert status.ok, status.problems
        await late.follow(r, status.seq, from_seq=0)
        assert late.state.digest == status.state_digest
        status = await r.until(lambda status: status.seq - status.log.first_seq < 40 + 3 * 20)
        assert all(one.bytes > 0 and one.time_ns > 0 for one in status.log.snapshots)
    async with replica(etcd.endpoints, cluster, "r2") as other:
        again = await other.until(lambda now: now.seq == status.seq)
        assert (again.chain, again.state_digest) == (status.chain, status.state_digest)
        assert again.log.first_seq >= first
        await check_reads_say_where_the_log_begins(other, again)
        await late.follow(other, again.seq)
        answer = await other.apply(namespace("more"))
        await late.follow(other, answer.seq)
        assert late.state.digest == (await other.status()).state_digest


async def check_reads_say_where_the_log_begins(r: Running, status: api.StatusResponse) -> None:
    first = status.log.first_seq
    for call in (
        r.log.ReadLog(api.ReadLogRequest(from_seq=1)),
        r.log.ReadCommits(api.ReadCommitsRequest(from_seq=1)),
        r.log.ReadCommits(api.ReadCommitsRequest(from_seq=1, stored=True)),
        r.nodes.Subscribe(api.SubscribeRequest(from_seq=2, chain_before=bytes(32))),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
        assert f"begins at seq {first}" in (caught.value.details() or "")
    entries = [entry async for entry in r.log.ReadLog(api.ReadLogRequest())]
    assert [entry.seq for entry in entries] == list(range(first, status.seq + 1))
    assert entries[-1].chain == status.chain


async def test_a_replica_that_the_log_was_trimmed_away_from_starts_over(
    etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a long pause: it hears nothing while the log moves on without it. It is not restarted."""
    cut_off = asyncio.Event()
    reachable = asyncio.Event()
    follow = EventLog.follow

    async with replica(etcd.endpoints, cluster, "r1", keep_every_s=0.05) as one:
        await set_small(one)
        await one.fill(5)

        def cut(self: EventLog, *args, **options):  # type: ignore[no-untyped-def]
            async def commits():  # type: ignore[no-untyped-def]
                cut_off.set()
                await reachable.wait()
                async for commit in follow(self, *args, **options):
                    yield commit

            return commits()

        monkeypatch.setattr(EventLog, "follow", cut)
        async with replica(etcd.endpoints, cluster, "r2") as two:
            await cut_off.wait()
            before = await two.status()
            follower = Follower(State())
            await follower.follow(two, before.seq)
            head = await fill_slowly(one, 12, "while-away")
            await until_trimmed(one, before.seq + 1)
            assert (await two.status()).seq == before.seq
            reachable.set()
            after = await two.until(lambda status: status.seq >= head)
            ours = await one.status()
            assert (after.chain, after.state_digest) == (ours.chain, ours.state_digest)
            assert not [problem for problem in after.problems if "log" in problem]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await follower.follow(two, head)
            assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
            anew = Follower(State())
            await anew.follow(two, head, from_seq=0)
            assert anew.state.digest == after.state_digest
            assert (await two.apply(namespace("written"))).results[0].action == "created"


async def test_a_broken_snapshot_is_passed_over(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05) as r:
        await set_small(r)
        await fill_slowly(r, 15)
        status = await until_trimmed(r)
    client = EtcdClient(etcd.endpoints)
    store = SnapshotStore(client, cluster)
    *_, before, newest = await store.manifests()
    await client.put(Keys(cluster).part(newest.seq, 0), b"rot")
    async with replica(etcd.endpoints, cluster, "r2", keep_every_s=60.0) as r:
        again = await r.until(lambda now: now.seq == status.seq)
        assert again.state_digest == status.state_digest
        parts = [part async for part in r.log.ReadSnapshot(api.ReadSnapshotRequest(at_seq=newest.seq))]
        assert {part.seq for part in parts} == {before.seq}
        state = State()
        for part in parts:
            state.load(decode_records(part.records), part.seq)
        assert (state.digest, parts[-1].last) == (before.state_digest, True)
        now = [part async for part in r.log.ReadSnapshot(api.ReadSnapshotRequest())]
        assert (now[-1].seq, now[-1].state_digest) == (again.seq, again.state_digest)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await r.log.ReadSnapshot(api.ReadSnapshotRequest(at_seq=1)).read()
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        for _ in range(2):  # the second time, the newest one is of the head, and broken
            assert (await r.log.Compact(api.CompactRequest(), timeout=60)).snapshot_seq == again.seq
            assert (await read_stored(store, again.seq)).digest == again.state_digest
            await client.put(Keys(cluster).part(again.seq, 0), b"rot")
    await client.close()


async def read_stored(store: SnapshotStore, seq: int) -> State:
    state = State()
    manifest = next(one for one in await store.manifests() if one.seq == seq)
    async for records in store.read(manifest):
        state.load(decode_records(records), seq)
    return state


async def test_compaction_on_demand_and_by_two_at_once(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster, "r1", keep_every_s=60.0) as one:
        async with replica(etcd.endpoints, cluster, "r2", keep_every_s=60.0) as two:
            for turn in range(4):
                await set_small(one)
                head = await one.fill(30, f"t{turn}-")
                await two.until(lambda status, head=head: status.seq == head)
                answers = await asyncio.gather(
                    one.log.Compact(api.CompactRequest(actor="test"), timeout=60),
                    two.log.Compact(api.CompactRequest(actor="test", defragment=True), timeout=60),
                )
                assert {answer.snapshot_seq for answer in answers} == {head}
                assert all(answer.revision and not answer.disarmed for answer in answers)
                assert all(one.before_bytes and one.after_bytes and not one.error for one in answers[1].members)
            assert max(answer.first_seq for answer in answers) > 40
            client = EtcdClient(etcd.endpoints)
            seqs = [commit.first_seq async for commit in EventLog(client, cluster).read(answers[1].first_seq)]
            assert seqs[0] == answers[1].first_seq
            with pytest.raises(grpc.aio.AioRpcError):
                await one.log.ReadCommits(api.ReadCommitsRequest(from_seq=1, stored=True)).read()
            await client.close()


async def test_events_are_archived_before_they_go(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05, log_archive_dir=folder) as r:
        await set_small(r)
        await fill_slowly(r, 10)
        await until_trimmed(r)
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05, log_archive_dir=folder) as r:
        await fill_slowly(r, 8, "more")
        status = await until_trimmed(r, 100)
        newest = status.log.snapshots[-1].seq
        status = await r.until(lambda now: now.log.archived_seq >= newest)
        assert status.ok, status.problems
    archive = SegmentDirectory([folder])
    span = archive.span()
    assert span.first_seq == 1 and span.last_seq >= status.log.first_seq
    state = State()
    for commit in archive.commits(1, newest):
        for number, record in enumerate(commit.records):
            fold_record(state, commit.first_seq + number, record)
    client = EtcdClient(etcd.endpoints)
    manifest = next(one for one in await SnapshotStore(client, cluster).manifests() if one.seq == newest)
    assert state.digest == manifest.state_digest
    await client.close()


async def test_an_archive_with_a_gap_stops_trimming_and_says_so(
    etcd: EmbeddedEtcd, cluster: str, tmp_path: Path
) -> None:
    """A leader whose archive ends before the log begins; and one that begins with the log's first snapshot."""
    folder = tmp_path / "archive"
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05, log_archive_dir=folder) as r:
        await set_small(r)
        await fill_slowly(r, 3)
        await r.until(lambda status: status.log.archived_seq > 0)
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05) as r:
        await fill_slowly(r, 10, "elsewhere")
        trimmed = await until_trimmed(r, 60)
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05, log_archive_dir=folder) as r:
        await r.fill(60, "late")
        status = await r.until(lambda status: status.log.error != "")
        assert f"the log begins at {trimmed.log.first_seq}: copy what is missing" in status.log.error
        assert any(status.log.error in problem for problem in status.problems)
        assert status.log.first_seq == trimmed.log.first_seq
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05, log_archive_dir=tmp_path / "new") as r:
        await until_trimmed(r, trimmed.log.first_seq)
        archive = SegmentDirectory([tmp_path / "new"])
        assert archive.snapshots()[0].seq == archive.span().first_seq - 1


async def test_the_archive_of_another_log_is_not_continued(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    for other, events in (("longer", 60), ("shorter", 3)):
        folder = tmp_path / other
        async with replica(etcd.endpoints, f"{cluster}-{other}", keep_every_s=0.05, log_archive_dir=folder) as r:
            await r.fill(events, other)
            await r.log.Compact(api.CompactRequest(), timeout=60)
    async with replica(etcd.endpoints, cluster) as r:
        await r.fill(20)
    for other, words in (("longer", "the log already at 20"), ("shorter", "it is of another log")):
        async with replica(
            etcd.endpoints, cluster, keep_every_s=0.05, loaded=False, log_archive_dir=tmp_path / other
        ) as r:
            status = await r.until(lambda status: status.log.error != "")
            assert words in status.log.error
            await set_small(r)
            await fill_slowly(r, 12, other)  # snapshots go on, but nothing goes that is not archived
            assert (await r.status()).log.first_seq == 1


async def test_old_revisions_of_etcd_are_forgotten(
    tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilim.controlplane.keeper.COMPACT_EVERY_S", 0.1)
    async with EmbeddedEtcd(tmp_path / "etcd") as own, replica(own.endpoints, cluster, keep_every_s=0.05) as r:
        client = EtcdClient(own.endpoints)
        for turn in range(10):
            await r.fill(1, f"one-by-one{turn}-")
        revision = (await client.get_range(b"\0", b"")).revision
        async with asyncio.timeout(20):
            while True:
                try:
                    await client.get(Keys(cluster).head, revision=revision - 5)
                except Compacted:
                    break
                await r.fill(1, "x")
        await client.close()
