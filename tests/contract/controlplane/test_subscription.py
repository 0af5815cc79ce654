"""Subscribers: from the beginning, from anywhere, by snapshot, slow ones, wrong ones."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.model.state import State
from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import controlplane_pb2_grpc as rpc
from tests.contract.controlplane.harness import Follower, Running, namespace, policy, replica

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def refused(r: Running, from_seq: int, chain: bytes = b"") -> tuple[grpc.StatusCode, str]:
    call = r.nodes.Subscribe(api.SubscribeRequest(from_seq=from_seq, chain_before=chain), timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return caught.value.code(), caught.value.details() or ""


async def test_from_the_beginning_then_live_then_resumed(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        follower = Follower(State())
        await follower.follow(r, 0)
        async with asyncio.TaskGroup() as group:
            group.create_task(follower.follow(r, 20))
            await r.fill(20)
        await r.fill(5, "more")
        await follower.follow(r, 25)
        status = await r.status()
        assert (follower.seq, follower.chain, follower.state.digest) == (25, status.chain, status.state_digest)
        assert follower.snapshots == 0


async def test_a_long_log_begins_with_a_snapshot(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        head = await r.fill(1100)
        followers = [Follower(State()) for _ in range(3)]
        await asyncio.gather(*(follower.follow(r, head, from_seq=0) for follower in followers))
        await r.fill(3, "more")
        await asyncio.gather(*(follower.follow(r, head + 3) for follower in followers))
        late = Follower(State())
        await late.follow(r, head + 3)
        status = await r.status()
        for follower in (*followers, late):
            assert follower.snapshots == 1
            assert (follower.chain, follower.state.digest) == (status.chain, status.state_digest)


async def test_what_fell_out_of_memory_is_read_from_the_log(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster, history_bytes=2000) as r:
        follower = Follower(State())
        await r.fill(3, "first")
        await follower.follow(r, 3)
        for turn in range(6):
            await r.fill(30, f"t{turn}")
        await follower.follow(r, 183)
        assert follower.snapshots == 0
        assert follower.state.digest == (await r.status()).state_digest


async def test_a_subscriber_that_does_not_read_costs_nobody_anything(etcd: EmbeddedEtcd, cluster: str) -> None:
    big = {"note": "x" * 100_000}
    async with replica(etcd.endpoints, cluster, history_bytes=4 << 20) as r:
        follower = Follower(State())
        call = r.nodes.Subscribe(api.SubscribeRequest(from_seq=0))
        follower.take(await call.read())
        for turn in range(240):
            one = namespace(f"n{turn % 7}", turn=str(turn))
            one["kind"], one["apiVersion"] = "NetworkPolicy", "networking.k8s.io/v1"
            one["metadata"] |= {"annotations": big, "namespace": "shop"}
            await r.apply(one | {"spec": {"podSelector": {}}})
        head = (await r.status()).seq
        async with asyncio.timeout(20):
            while follower.seq < head:
                follower.take(await call.read())
        call.cancel()
        assert follower.state.digest == (await r.status()).state_digest


async def test_one_that_does_not_read_among_many_that_do(etcd: EmbeddedEtcd, cluster: str) -> None:
    note = "x" * 50_000
    async with replica(etcd.endpoints, cluster, history_bytes=1 << 20) as r:
        async with grpc.aio.insecure_channel(r.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stopped, late = rpc.NodesStub(channel).Subscribe(api.SubscribeRequest(from_seq=0)), Follower(State())
            late.take(await stopped.read())
            many = [Follower(State()) for _ in range(60)]
            async with asyncio.TaskGroup() as group:
                for each in many:
                    group.create_task(each.follow(r, 80))
                for turn in range(80):
                    one = policy(f"n{turn % 7}", f"10.{turn}.0.0/16")
                    one["metadata"] |= {"annotations": {"note": note}}
                    one["spec"]["ingress"] = []
                    await r.apply(one | {"metadata": one["metadata"] | {"labels": {"turn": str(turn)}}})
            digest = (await r.status()).state_digest
            assert {each.state.digest for each in many} == {digest}
            assert late.seq == 0
            async with asyncio.timeout(20):
                while late.seq < 80:
                    late.take(await stopped.read())
            assert (late.state.digest, late.snapshots) == (digest, 0)


async def test_wrong_starts_are_refused_with_the_reason(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        for turn in range(5):
            await r.apply(namespace(f"n{turn}"))
        await r.apply(namespace("a"), namespace("b"))
        code, words = await refused(r, 9)
        assert (code, words) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "from_seq 9 is beyond the log, whose last event is 7",
        )
        code, words = await refused(r, 3, bytes(32))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert words.startswith("chain_before: event 2 has chain ")
        code, words = await refused(r, 7)
        assert (code, words) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "from_seq 7 is not the first event of a commit of this log",
        )


async def test_a_subscriber_that_is_ahead_of_a_replica_is_no_stranger(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster, "r1") as one, replica(etcd.endpoints, cluster, "r2") as two:
        follower = Follower(State())
        for turn in range(20):
            writes, reads = (one, two) if turn % 2 else (two, one)
            answer = await writes.apply(namespace(f"n{turn}"))
            await follower.follow(writes, answer.seq)
            await follower.follow(reads, answer.seq)
        assert follower.seq == 20


async def test_heartbeats_come_while_nothing_happens(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        call = r.nodes.Subscribe(api.SubscribeRequest())
        async with asyncio.timeout(5):
            heads = [await call.read() for _ in range(2)]
        call.cancel()
        assert [message.head.seq for message in heads] == [0, 0]


async def test_the_log_can_be_read(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster, history_bytes=2000) as r:
        await r.fill(60, "a")
        await r.apply(namespace("x"), namespace("y"))
        entries = [entry async for entry in r.log.ReadLog(api.ReadLogRequest())]
        assert [entry.seq for entry in entries] == list(range(1, 63))
        assert entries[-1].chain == (await r.status()).chain
        some = [entry async for entry in r.log.ReadLog(api.ReadLogRequest(from_seq=61, to_seq=61))]
        assert some == [entries[60]]
        call = r.log.ReadLog(api.ReadLogRequest(from_seq=62, follow=True))
        assert await call.read() == entries[61]
        await r.apply(namespace("z"))
        assert (await call.read()).seq == 63
        call.cancel()


async def test_a_replica_that_stops_sends_its_subscribers_elsewhere(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        call = r.nodes.Subscribe(api.SubscribeRequest())
        await call.read()
        r.stop.set()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(5):
                while await call.read() is not grpc.aio.EOF:
                    pass
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "this replica is stopping"
