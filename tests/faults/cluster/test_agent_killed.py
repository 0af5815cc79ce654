"""`kill -9` of agents: within bursts of policy changes no packet notices; within CNI calls nothing is left over."""

import asyncio
import random

import pytest

from tests.faults.cluster.flows import undisturbed
from tests.faults.cluster.history import policy
from tests.faults.cluster.runtime import NAMESPACE, Runtime, pinned_links, pod_links
from tests.faults.cluster.stage import SEEDS, Stage, until

ROUNDS = 6
CNI_ROUNDS = 3
BURST = 12
APPS = ("db", "cache", "api")


@pytest.mark.parametrize("seed", SEEDS)
async def test_kills_within_bursts_of_policy_changes_lose_and_leak_nothing(stage: Stage, seed: int) -> None:
    chance = random.Random(seed)
    async with undisturbed(stage):
        for number in range(ROUNDS):
            victims = (("node1",), ("node2",), ("node1", "node2"))[number % 3]
            burst = asyncio.create_task(change_policies(stage, random.Random(f"{seed} {number}")), name="burst")
            changed = (await stage.agent_status(victims[0])).seq + chance.randrange(1, BURST // 2)
            await until("the burst is under way", lambda v=victims[0], s=changed: enforces(stage, v, s))  # type: ignore[misc]
            stage.kill(*victims)
            if chance.random() < 0.5:
                await burst  # what happened meanwhile comes from a replica, the rest is found in the kernel
            await stage.restart(*victims)
            await burst
            await stage.check_agreement()
    for name in sorted(await stage.replicas[0].names("NetworkPolicy", "shop")):
        if name.startswith("shop/burst-"):
            await stage.replicas[0].delete("NetworkPolicy", "shop", name.partition("/")[2])


async def enforces(stage: Stage, node: str, seq: int) -> bool:
    return (await stage.agent_status(node)).seq >= seq


async def change_policies(stage: Stage, chance: random.Random) -> None:
    """Rows of subjects that are under traffic come and go: others' addresses, others' labels, other ports."""
    for step in range(BURST):
        replica = chance.choice(stage.replicas)
        name = f"burst-{chance.randrange(5)}"
        if chance.random() < 0.3:
            await replica.delete("NetworkPolicy", "shop", name)
        peer = chance.choice(("nobody", "frontend", "prometheus"))
        if peer != "nobody":
            await replica.apply(policy(name, app="api", peer=peer))  # port 5432, where nobody listens
        else:
            cidr = f"203.0.113.{chance.randrange(256)}/32"
            await replica.apply(policy(name, cidr, app=chance.choice(APPS), peer=f"nobody-{step}"))


@pytest.mark.parametrize("seed", SEEDS)
async def test_kills_within_cni_calls_leave_nothing_over(stage: Stage, seed: int) -> None:
    chance, runtime, node = random.Random(seed), Runtime(stage.lab), "node1"
    links_before, endpoints_before = pod_links(stage.lab, node), await stage.replicas[0].names("Endpoint")
    assert pinned_links(stage.lab, node) == links_before
    for number in range(CNI_ROUNDS):
        pods = [f"p{(number + each) % 6}" for each in range(4)]
        async with asyncio.TaskGroup() as group:
            for pod in pods:
                group.create_task(replace(runtime, pod, node, chance.random() < 0.5), name=pod)
            await asyncio.sleep(chance.uniform(0.02, 0.25))  # a moment within the calls, whichever it is
            stage.kill(node)
            await stage.restart(node)
        at = {sandbox.pod: sandbox for sandbox in runtime.live.values()}
        assert len(at) == len(runtime.live), "two containers of one pod"
        await until("links are those of the containers", lambda: same_links(stage, node, links_before, runtime))
    assert runtime.refused, "no kill fell into a call"
    state = await stage.check_agreement()
    logged = {(e.namespace, e.name): e for e in state.endpoints.values() if e.namespace == NAMESPACE}
    for sandbox in runtime.live.values():
        endpoint = logged.pop((NAMESPACE, sandbox.pod))
        assert endpoint.container_id == sandbox.container_id
    assert not logged
    async with asyncio.TaskGroup() as group:
        for sandbox in list(runtime.live.values()):
            group.create_task(runtime.delete(sandbox), name=f"DEL {sandbox.pod}")
        stage.kill(node)
        await stage.restart(node)
    assert pod_links(stage.lab, node) == links_before == pinned_links(stage.lab, node)

    async def forgotten() -> bool:
        assert (left := await stage.replicas[0].names("Endpoint")) == endpoints_before, left - endpoints_before
        return True

    await until("the log has no endpoint that is gone", forgotten)


async def replace(runtime: Runtime, pod: str, node: str, gives_up: bool) -> None:
    """The pod's container goes and a new one comes; `gives_up`: an ADD that failed is followed by DEL and one anew."""
    for old in [each for each in runtime.live.values() if each.pod == pod]:
        await runtime.delete(old)
    sandbox = runtime.sandbox(pod, node)
    if gives_up:
        answer = await runtime.call("ADD", sandbox)
        if "code" not in answer:
            await runtime.add(sandbox)  # the same again is the same answer
            return
        await runtime.delete(sandbox)
        sandbox = runtime.sandbox(pod, node)
    await runtime.add(sandbox)


async def same_links(stage: Stage, node: str, before: set[str], runtime: Runtime) -> bool:
    wanted = before | {each.link for each in runtime.live.values() if each.node == node}
    assert pod_links(stage.lab, node) == wanted == pinned_links(stage.lab, node)
    return True
