"""etcd dies or stops answering under a running cluster: said, refused, served from memory, and over by itself."""

import asyncio
import time

import grpc
import grpc.aio
import pytest

from kilim.lab.topology import Lab
from kilim.v1 import controlplane_pb2 as api
from tests.faults.cluster.history import policy
from tests.faults.cluster.stage import Replica, Stage, until

REFUSED_WITHIN_S = 10.0  # as long as `kilim apply` waits
SAID_WITHIN_S = 10.0
NOT_DONE = {grpc.StatusCode.UNAVAILABLE}
PERHAPS_DONE = {grpc.StatusCode.UNKNOWN}


async def says_away(replica: Replica) -> bool:
    status = await replica.status()
    assert not status.etcd.reachable and not status.ok, "etcd is still thought reachable"
    assert any("etcd is unreachable" in problem for problem in status.problems), list(status.problems)
    return True


async def refusal(replica: Replica, name: str) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await replica.apply(policy(name, "203.0.113.0/24"), timeout_s=REFUSED_WITHIN_S)
    return refused.value.code()


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_etcd_goes_and_comes_back(stage: Stage, lab: Lab, how: str) -> None:
    acknowledged = [f"before-{how}-{n}" for n in range(12)]
    for n, name in enumerate(acknowledged):
        await stage.replicas[n % 3].apply(policy(name, f"198.51.100.{n}/32"))
    (stage.kill if how == "killed" else stage.pause)("etcd1")
    first = await asyncio.gather(*(refusal(replica, f"first-{how}") for replica in stage.replicas))
    assert set(first) <= NOT_DONE | PERHAPS_DONE
    for replica in stage.replicas:
        await until(f"{replica.name} says that etcd is away", lambda r=replica: says_away(r), SAID_WITHIN_S)  # type: ignore[misc]
        began = time.monotonic()
        assert await refusal(replica, f"later-{how}") in NOT_DONE
        assert time.monotonic() - began < 1.0, "known to be away, so refused at once"
        assert {f"shop/{name}" for name in acknowledged} <= await replica.names("NetworkPolicy")
        one = api.GetRequest(kind="NetworkPolicy", namespace="shop", name=acknowledged[0])
        found = await replica.resources.Get(one)
        assert acknowledged[0] in found.json
    await check_subscription(stage.replicas[0])
    await check_restarted_agent(stage)

    if how == "killed":
        await stage.restart("etcd1")
    else:
        stage.resume("etcd1")
    after = [f"after-{how}-{n}" for n in range(3)]
    for replica, name in zip(stage.replicas, after, strict=True):
        await until(f"{replica.name} writes again", lambda r=replica, n=name: r.apply(policy(n, "192.0.2.0/24")))  # type: ignore[misc]
    state = await stage.check_agreement()
    there = {policy.name for policy in state.policies.values()}
    assert there >= {*acknowledged, *after}
    assert f"later-{how}" not in there, "refused as surely not done"
    for name in (*acknowledged, *after, f"first-{how}"):
        await stage.replicas[0].delete("NetworkPolicy", "shop", name)


async def check_subscription(replica: Replica) -> None:
    """A newcomer gets the whole log up to the head, and heartbeats after it."""
    call = replica.nodes.Subscribe(api.SubscribeRequest(node="test", from_seq=1))
    heads = 0
    async with asyncio.timeout(10):
        while heads < 2:
            message = await call.read()
            assert message is not grpc.aio.EOF
            heads += message.WhichOneof("what") == "head"
    call.cancel()


async def check_restarted_agent(stage: Stage) -> None:
    """Its cache, then the replicas' memory; nothing of it needs etcd."""
    before = await stage.agent_status("node2")
    stage.kill("node2")
    await stage.restart("node2")

    async def enforces() -> bool:
        status = await stage.agent_status("node2")
        return status.in_sync and (status.seq, status.table_digest) == (before.seq, before.table_digest)

    await until("the restarted agent enforces what it enforced before", enforces)
