"""Several replicas at once, etcd killed or absent, answers lost: nothing is lost, nothing happens twice."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import CHAIN_START, verify_commit
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.errors import OutcomeUnknown, Unavailable
from kilim.kvstore.keys import Keys
from kilim.kvstore.log import EventLog
from kilim.model.state import State
from kilim.v1 import controlplane_pb2 as api
from tests.contract.controlplane.harness import PATIENCE_S, Follower, Running, namespace, replica

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def check_log(endpoints: list[str], cluster: str) -> int:
    """Dense, with a whole chain (I3); returns the head."""
    client = EtcdClient(endpoints)
    seq, chain = 0, CHAIN_START
    async for commit in EventLog(client, cluster).read(1):
        verify_commit(commit, seq + 1, chain)
        seq, chain = commit.last_seq, commit.chain_after
    await client.close()
    return seq


async def test_replicas_decide_at_once_and_lose_nothing(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with (
        replica(etcd.endpoints, cluster, "r1") as one,
        replica(etcd.endpoints, cluster, "r2") as two,
        replica(etcd.endpoints, cluster, "r3") as three,
    ):
        replicas = (one, two, three)
        await asyncio.gather(*(r.register_node(f"n{n}", f"192.0.2.{n}") for n, r in enumerate(replicas * 10, 1)))
        listed = (await one.resources.List(api.ListRequest(kind="Node"))).items
        status = await one.until(lambda status: status.seq == 30)
        assert len({cidr for node in status.nodes for cidr in node.pod_cidrs}) == len(listed) == 30
        # The same address for many pods through all replicas: one gets it.
        cidr = next(node.pod_cidrs[0] for node in status.nodes if node.name == "n1")
        ip = cidr.replace("0/24", "9")
        results = await asyncio.gather(
            *(r.register_endpoint("n1", f"p{n}", ip, n, app=str(n % 3)) for n, r in enumerate(replicas * 5, 1)),
            return_exceptions=True,
        )
        errors = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert len(errors) == 14
        assert {error.code() for error in errors} == {grpc.StatusCode.FAILED_PRECONDITION}
        seq = await check_log(etcd.endpoints, cluster)
        assert 32 <= seq <= 34  # those that were refused may have allocated the identities of their labels
        followers = [Follower(State()) for _ in replicas]
        await asyncio.gather(*(f.follow(r, seq) for f, r in zip(followers, replicas, strict=True)))
        assert len({follower.state.digest for follower in followers}) == 1


async def test_a_refusal_is_not_given_on_a_stale_state(etcd: EmbeddedEtcd, cluster: str) -> None:
    """What one replica acknowledged, the next call to another one sees."""
    async with replica(etcd.endpoints, cluster, "r1") as one, replica(etcd.endpoints, cluster, "r2") as two:
        for number in range(1, 11):
            await one.register_node(f"n{number}", f"192.0.2.{number}", f"10.1.{number}.0/24")
            await two.register_endpoint(f"n{number}", f"p{number}", f"10.1.{number}.3", 1)
            again = await two.register_node(f"n{number}", f"192.0.2.{number}", f"10.1.{number}.0/24")
            assert again.seq >= number


async def write_until(r: Running, stop: asyncio.Event, done: list[str], prefix: str) -> None:
    number = 0
    while not stop.is_set():
        name = f"{prefix}{number}"
        try:
            await r.apply(namespace(name))
            done.append(name)
            number += 1
        except grpc.aio.AioRpcError as error:
            assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN), error


async def test_etcd_is_killed_and_comes_back(tmp_path: Path, cluster: str) -> None:
    async with (
        EmbeddedEtcd(tmp_path / "etcd") as own,
        replica(own.endpoints, cluster, "r1") as one,
        replica(own.endpoints, cluster, "r2") as two,
    ):
        stop, done = asyncio.Event(), list[str]()
        follower = Follower(State())
        async with asyncio.TaskGroup() as group:
            for r, prefix in ((one, "a"), (two, "b")):
                group.create_task(write_until(r, stop, done, prefix))
            for _ in range(2):
                await one.until(lambda status: len(done) > 50)
                assert own.pid is not None
                os.kill(own.pid, signal.SIGKILL)
                done_before = len(done)
                await one.until(lambda status, n=done_before: len(done) > n + 20)
            stop.set()
        head = await check_log(own.endpoints, cluster)
        await follower.follow(two, head)
        assert {*done} <= {*follower.state.namespaces}
        for r in (one, two):
            status = await r.until(lambda status: status.seq == head and status.etcd.reachable)
            assert status.state_digest == follower.state.digest


async def test_without_etcd_it_reads_and_subscribes_from_memory_and_refuses_to_write(
    tmp_path: Path, cluster: str
) -> None:
    own = EmbeddedEtcd(tmp_path / "etcd")
    await own.start()
    async with replica(own.endpoints, cluster) as r:
        await r.fill(5)
        await own.stop()
        status = await r.until(lambda status: not status.etcd.reachable)
        assert any(problem.startswith("etcd is unreachable since ") for problem in status.problems)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await r.apply(namespace("late"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (caught.value.details() or "").startswith("etcd is unreachable since ")
        assert len((await r.resources.List(api.ListRequest(kind="Namespace"))).items) == 5
        follower = Follower(State())
        await follower.follow(r, 5)
        held = [batch async for batch in r.log.ReadCommits(api.ReadCommitsRequest(from_seq=1))]
        assert sum(len(batch.commits) for batch in held)
        with pytest.raises(grpc.aio.AioRpcError) as none:  # memory begins at 1: the empty state is where to begin
            [part async for part in r.log.ReadSnapshot(api.ReadSnapshotRequest(at_seq=3), timeout=3)]
        assert none.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.aio.AioRpcError) as away:
            [batch async for batch in r.log.ReadCommits(api.ReadCommitsRequest(stored=True), timeout=3)]
        assert (away.value.details() or "").startswith("etcd is unreachable since ")
        await own.start()
        await r.until(lambda status: status.etcd.reachable)
        assert (await r.apply(namespace("late"))).seq == 6
        await follower.follow(r, 6)
    await own.stop()


async def test_it_starts_without_etcd_and_goes_on_when_there_is_one(tmp_path: Path, cluster: str) -> None:
    own = EmbeddedEtcd(tmp_path / "etcd")
    await own.start()
    endpoints = own.endpoints
    async with replica(endpoints, cluster) as r:
        await r.fill(3)
    await own.stop()
    async with replica(endpoints, cluster, loaded=False) as r:
        status = await r.until(lambda status: any("unreachable" in problem for problem in status.problems))
        assert "this replica has not read the log yet" in status.problems
        call = r.nodes.Subscribe(api.SubscribeRequest(from_seq=4, chain_before=bytes(32)), timeout=PATIENCE_S)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await own.start()
        status = await r.until(lambda status: status.seq == 3 and status.etcd.reachable)
        await r.apply(namespace("more"))
    await own.stop()


async def test_an_answer_that_never_came_is_found_in_the_log(
    etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = EventLog.append

    async def applied_but_unknown(self: EventLog, *args: Any, **options: Any) -> Any:
        await append(self, *args, **options)
        raise OutcomeUnknown("no answer")

    async with replica(etcd.endpoints, cluster) as r:
        monkeypatch.setattr(EventLog, "append", applied_but_unknown)
        answer = await r.apply(namespace("a"))
        assert (answer.seq, answer.results[0].action) == (1, "created")
        monkeypatch.undo()
        assert (await r.apply(namespace("a"))).results[0].action == "unchanged"


async def test_an_unknown_outcome_is_told_as_one(
    etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unknown(self: EventLog, *args: Any, **options: Any) -> Any:
        raise OutcomeUnknown("no answer")

    async def unavailable(self: EventLog, *args: Any, **options: Any) -> Any:
        raise Unavailable("nobody answers")

    async with replica(etcd.endpoints, cluster) as r:
        monkeypatch.setattr("kilim.controlplane.writer.UNKNOWN_WAIT_S", 0.05)
        cases = ((unknown, grpc.StatusCode.UNKNOWN), (unavailable, grpc.StatusCode.UNAVAILABLE))
        for append, code in cases:
            monkeypatch.setattr(EventLog, "append", append)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await r.apply(namespace("a"))
            assert caught.value.code() is code
        assert caught.value.details() == "nobody answers"
        monkeypatch.undo()
        assert (await r.apply(namespace("a"))).results[0].action == "created"


async def test_another_store_in_the_place_of_ours_is_not_written_to(tmp_path: Path, cluster: str) -> None:
    own = EmbeddedEtcd(tmp_path / "etcd")
    await own.start()
    port = int(own.endpoints[0].rpartition(":")[2])
    async with replica(own.endpoints, cluster) as r:
        await r.fill(4)
        async with replica(own.endpoints, cluster, "r2") as other:
            await other.fill(1, "other")
        before = await r.until(lambda status: status.seq == 5)  # by the watch, which so has seen all of them
        await own.stop()
        async with EmbeddedEtcd(tmp_path / "other", client_port=port):
            status = await r.until(lambda status: any("log broken" in problem for problem in status.problems))
            assert (status.seq, status.state_digest) == (5, before.state_digest)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await r.apply(namespace("late"))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert await check_log(own.endpoints, cluster) == 0
            await Follower(State()).follow(r, 5)


async def test_a_log_that_is_whole_again_is_written_to_again(
    etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilim.controlplane.replica.BROKEN_RETRY_S", 0.1)
    async with replica(etcd.endpoints, cluster) as r:
        for turn in range(3):  # a commit each
            await r.fill(1, f"n{turn}-")
    client = EtcdClient(etcd.endpoints)
    (second,) = [commit async for commit in EventLog(client, cluster).read(2, 2)]
    await client.delete(Keys(cluster).commit(2))
    async with replica(etcd.endpoints, cluster, loaded=False) as r:
        await r.until(lambda status: any("log broken" in problem for problem in status.problems))
        await client.put(Keys(cluster).commit(2), second.encoded)
        await r.until(lambda status: not any("log" in problem for problem in status.problems))
        assert (await r.apply(namespace("more"))).seq == 4
    await client.close()
