"""etcd at its quota: writes are refused with what to do about it, all else goes on, and doing it helps at once."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.errors import NoSpace
from kilim.kvstore.keys import Keys
from kilim.kvstore.log import EventLog
from kilim.kvstore.reserve import PIECES
from kilim.model.state import State
from kilim.v1 import controlplane_pb2 as api
from tests.contract.controlplane.harness import Follower, Running, namespace, policy, replica

pytestmark = pytest.mark.asyncio(loop_scope="session")

QUOTA_BYTES = 16 << 20
TO_DO = "etcd is at its quota and takes no writes: run `kilim log compact --defragment`"


def big(turn: int, size: int) -> dict[str, Any]:
    one = policy(f"p{turn % 3}")
    one["metadata"]["annotations"] = {"note": f"{turn} " + "x" * size}
    return one


async def fill_log(r: Running, size: int = 100_000) -> grpc.aio.AioRpcError:
    """Until it is refused; by events that replace one another, so that the state stays small."""
    at_once = max(1, min(100, 100_000 // size))
    for turn in range(0, 10 * QUOTA_BYTES // size, at_once):
        applied = (r.apply(big(turn + number, size)) for number in range(at_once))
        answers = await asyncio.gather(*applied, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, grpc.aio.AioRpcError):
                return answer
    raise AssertionError("etcd took more than its quota")


def check_refused(error: grpc.aio.AioRpcError) -> None:
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (error.details() or "").startswith(TO_DO)


async def check_goes_on(r: Running) -> None:
    """All that needs no writes."""
    status = await r.until(lambda status: any(problem.startswith(TO_DO) for problem in status.problems))
    assert not status.ok and status.etcd.reachable
    assert (await r.resources.List(api.ListRequest(kind="NetworkPolicy"))).items
    follower = Follower(State())
    await follower.follow(r, status.seq, from_seq=0)
    assert follower.state.digest == status.state_digest
    assert (await r.apply(namespace("dry"), dry_run=True)).results[0].action == "created"


@pytest.mark.parametrize("size", [100_000, 500], ids=["large events", "small events"])
async def test_compaction_makes_a_full_etcd_take_writes_again(tmp_path: Path, cluster: str, size: int) -> None:
    quota = QUOTA_BYTES if size > 10_000 else QUOTA_BYTES // 2
    async with (
        EmbeddedEtcd(tmp_path / "etcd", quota_bytes=quota) as own,
        replica(own.endpoints, cluster, "r1", keep_every_s=60.0) as one,
        replica(own.endpoints, cluster, "r2", keep_every_s=60.0) as two,
    ):
        for turn in range(3):
            await asyncio.gather(*(one.apply(big(turn * 15 + n, size)) for n in range(15)))
            middle = await one.log.Compact(api.CompactRequest(), timeout=60)
        await one.cluster.ChangeSetting(api.ChangeSettingRequest(name="log-retention-events", value="20"))
        check_refused(await fill_log(one, size))
        for r in (one, two):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await r.apply(namespace("refused"))
            check_refused(caught.value)
            await check_goes_on(r)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await two.log.Compact(api.CompactRequest(), timeout=60)
        check_refused(caught.value)
        before = await one.status()
        done = await two.log.Compact(api.CompactRequest(defragment=True, actor="test"), timeout=60)
        assert (done.disarmed, done.first_seq, done.snapshot_seq) == (True, middle.snapshot_seq + 1, before.seq)
        assert done.members[0].after_bytes < done.members[0].before_bytes
        for r in (one, two):
            assert (await r.apply(namespace(f"works-{r.name}"))).results[0].action == "created"
            status = await r.until(lambda status: status.ok)
            assert status.log.error == ""
        last = await two.status()
        assert (await one.until(lambda status: status.seq >= last.seq)).state_digest == last.state_digest
        await check_rebuilt(own, cluster, one)


async def check_rebuilt(own: EmbeddedEtcd, cluster: str, one: Running) -> None:
    async with replica(own.endpoints, cluster, "r3") as three:
        expected = await one.status()
        status = await three.until(lambda status: status.seq == expected.seq)
        assert status.state_digest == expected.state_digest


async def test_what_retention_keeps_and_does_not_fit_is_said(tmp_path: Path, cluster: str) -> None:
    """Nothing may be trimmed: writes work for as long as the room that was freed lasts, and the past is still whole."""
    async with (
        EmbeddedEtcd(tmp_path / "etcd", quota_bytes=QUOTA_BYTES) as own,
        replica(own.endpoints, cluster, "r1", keep_every_s=0.2) as r,
    ):
        await r.fill(5)
        client = EtcdClient(own.endpoints)
        await until_reserved(client, cluster)
        await client.close()
        check_refused(await fill_log(r))
        done = await r.log.Compact(api.CompactRequest(defragment=True), timeout=60)
        assert done.disarmed and done.first_seq == 1
        await r.cluster.ChangeSetting(api.ChangeSettingRequest(name="log-retention-events", value="10"))
        await r.cluster.ChangeSetting(api.ChangeSettingRequest(name="snapshot-every-events", value="10"))
        done = await r.log.Compact(api.CompactRequest(defragment=True), timeout=60)
        assert done.first_seq == 1  # two snapshots must cover the way to the head before anything goes
        for turn in range(10):
            await r.apply(big(turn, 10))
        done = await r.log.Compact(api.CompactRequest(defragment=True), timeout=60)
        assert done.first_seq > 1
        check_refused(await fill_log(r))


async def test_an_operator_may_clear_it_by_hand(tmp_path: Path, cluster: str) -> None:
    """Somebody else filled that etcd, and tidies up with etcdctl: nothing here is restarted."""
    async with (
        EmbeddedEtcd(tmp_path / "etcd", quota_bytes=QUOTA_BYTES) as own,
        replica(own.endpoints, cluster, "r1", keep_every_s=0.2) as r,
    ):
        await r.fill(5)
        client = EtcdClient(own.endpoints)
        with pytest.raises(NoSpace):
            for number in range(100):
                await client.put(f"/other/{number}", bytes(1 << 20))
        await client.close()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await r.apply(namespace("refused"))
        check_refused(caught.value)
        await r.until(lambda status: any(problem.startswith(TO_DO) for problem in status.problems))
        async with replica(own.endpoints, cluster, "r2") as late:
            status = await late.status()
            assert status.seq == 5
            assert {one.name for one in status.replicas} == {"r1", "r2"}
            assert [one.name for one in (await r.status()).replicas] == ["r1"]  # no lease can be granted
            await asyncio.to_thread(tidy_up, own.endpoints[0])
            assert (await r.apply(namespace("works"))).results[0].action == "created"
            await r.until(lambda status: status.ok and len(status.replicas) == 2)


async def until_reserved(client: EtcdClient, cluster: str) -> None:
    async with asyncio.timeout(20):
        while len((await client.get_prefix(Keys(cluster).reserve)).kvs) < PIECES:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def tidy_up(endpoint: str) -> None:
    def etcdctl(*words: str) -> str:
        command = ["etcdctl", f"--endpoints={endpoint}", *words]
        environment = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    etcdctl("del", "--prefix", "/other/")
    revision = etcdctl("get", "nothing", "--write-out=json").partition('"revision":')[2].partition(",")[0]
    etcdctl("compact", "--physical", revision)
    etcdctl("defrag")
    etcdctl("alarm", "disarm")


async def test_a_log_of_a_full_etcd_is_read(tmp_path: Path, cluster: str) -> None:
    async with (
        EmbeddedEtcd(tmp_path / "etcd", quota_bytes=QUOTA_BYTES) as own,
        replica(own.endpoints, cluster, "r1", keep_every_s=60.0) as r,
    ):
        check_refused(await fill_log(r))
        client = EtcdClient(own.endpoints)
        last = 0
        async for commit in EventLog(client, cluster).read(1):
            last = commit.last_seq
        assert last == (await r.status()).seq
        await client.close()
