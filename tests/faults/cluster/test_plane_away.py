"""No replica answers: CNI says "try again later" in time, what is enforced stays, and all is made up for later."""

import time
from collections.abc import Callable

import pytest

from tests.faults.cluster.flows import undisturbed
from tests.faults.cluster.runtime import NAMESPACE, TRY_AGAIN_LATER, Runtime, pod_links
from tests.faults.cluster.stage import Stage, until

NOT_AVAILABLE = 50
ANSWERS_WITHIN_S = 5.0


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_all_replicas_go_and_come_back(stage: Stage, how: str) -> None:
    runtime, node = Runtime(stage.lab), "node1"
    links = pod_links(stage.lab, node)
    leaving, early = runtime.sandbox("leaving", node), runtime.sandbox("waiting", node)
    await runtime.add(leaving)
    hurt: Callable[..., None] = stage.kill if how == "killed" else stage.pause
    async with undisturbed(stage):
        hurt(*stage.replica_names)
        if how == "killed":  # else the agent keeps its connections, and what it asks lies in the replicas' sockets
            stage.kill(node)
            await stage.restart(node)
            await until("the agent enforces from its cache", lambda: enforces(stage, node))
        began = time.monotonic()
        answer = await runtime.call("ADD", early)
        assert answer.get("code") == TRY_AGAIN_LATER, answer
        assert time.monotonic() - began < ANSWERS_WITHIN_S
        began = time.monotonic()
        await runtime.delete(early)  # as a kubelet does before it tries with a new sandbox
        await runtime.delete(leaving)
        assert time.monotonic() - began < 2 * ANSWERS_WITHIN_S
        assert pod_links(stage.lab, node) == links
        assert (await runtime.call("STATUS", early)).get("code") == NOT_AVAILABLE
        assert not (await stage.agent_status(node)).errors

        again = runtime.sandbox("waiting", node)
        first, *others = stage.replica_names
        await back(stage, how, first)
        await runtime.add(again)
        await back(stage, how, *others)  # they may hold the registration of the first sandbox still
    await until("the log forgets what went meanwhile", lambda: only_waiting(stage))
    state = await stage.check_agreement()
    endpoints = [each for each in state.endpoints.values() if each.namespace == NAMESPACE]
    assert [(each.name, each.container_id) for each in endpoints] == [("waiting", again.container_id)]
    assert pod_links(stage.lab, node) == links | {again.link}
    await runtime.delete(again)
    await until("the log has no endpoint of these", lambda: none_left(stage))


async def back(stage: Stage, how: str, *replicas: str) -> None:
    if how == "killed":
        await stage.restart(*replicas)
    else:
        stage.resume(*replicas)


async def enforces(stage: Stage, node: str) -> bool:
    status = await stage.agent_status(node)
    return bool(status.seq) and bool(status.rebuilt_at_ns)


async def only_waiting(stage: Stage) -> bool:
    return await stage.replicas[0].names("Endpoint", NAMESPACE) == {f"{NAMESPACE}/waiting"}


async def none_left(stage: Stage) -> bool:
    return not await stage.replicas[0].names("Endpoint", NAMESPACE)
