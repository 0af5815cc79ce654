"""A node whose cable is pulled: said to be down, not waited for, enforcing as before, and equal again when healed."""

import time
from typing import Any

import yaml

from kilim.lab import faults
from kilim.lab.asking import ask_probes
from kilim.lab.demo.story import policy_files
from kilim.lab.scenario import Probe
from kilim.v1 import controlplane_pb2 as api
from tests.faults.cluster.history import policy
from tests.faults.cluster.stage import Replica, Stage, until

SAID_WITHIN_S = 12.0
LOST = "node2"
WITHIN = [  # ends on the lost node both
    Probe("monitoring/prometheus", "shop/api", 8080, "TCP", None, {}),
    Probe("shop/api", "shop/cache", 6379, "TCP", None, {}),
    Probe("monitoring/prometheus", "shop/cache", 6379, "TCP", None, {}),
]
BEFORE, AFTER = ["allow", "allow", "deny"], ["deny", "allow", "deny"]
ACROSS = [  # the second only since the change
    Probe("shop/frontend", "shop/api", 8080, "TCP", "allow", {}),
    Probe("shop/dns", "shop/cache", 6379, "TCP", "allow", {}),
]


async def test_a_node_off_the_fabric(stage: Stage) -> None:
    before = await stage.agent_status(LOST)
    faults.partition(stage.lab, LOST)
    for replica in stage.replicas:
        await until(f"{replica.name} says that {LOST} is down", lambda r=replica: says_down(r), SAID_WITHIN_S)  # type: ignore[misc]
    assert await got(stage) == BEFORE
    (monitoring,) = [body for body in demo_policies() if body["metadata"]["name"] == "monitoring"]
    await stage.replicas[0].delete("NetworkPolicy", "shop", "monitoring")
    seq = (await stage.replicas[1].apply(policy("meanwhile", app="cache", peer="dns", port=6379))).seq
    began = time.monotonic()
    answer = await stage.replicas[2].cluster.Wait(api.WaitRequest(seq=seq, timeout_ms=10_000), timeout=12)
    assert (answer.done, list(answer.down), list(answer.behind)) == (True, [LOST], [])
    assert time.monotonic() - began < 5.0, "a node that is down is not waited for"
    away = await stage.agent_status(LOST)
    assert (away.seq, away.table_digest) == (before.seq, before.table_digest), "it keeps what it had"
    assert await got(stage) == BEFORE

    faults.heal(stage.lab)
    state = await stage.check_agreement()
    assert state.seq >= seq
    assert await got(stage) == AFTER
    assert [verdict.got for verdict in await ask_probes(stage.lab, ACROSS)] == ["allow"] * len(ACROSS)
    await stage.replicas[0].delete("NetworkPolicy", "shop", "meanwhile")
    await stage.replicas[0].apply(monitoring)


def demo_policies() -> list[dict[str, Any]]:
    return [body for file in policy_files() for body in yaml.safe_load_all(file.read_text())]


async def got(stage: Stage) -> list[str]:
    return [verdict.got for verdict in await ask_probes(stage.lab, WITHIN)]


async def says_down(replica: Replica) -> bool:
    status = await replica.status()
    (node,) = [node for node in status.nodes if node.name == LOST]
    assert not node.up and not status.ok, f"{LOST} is up"
    assert any(LOST in problem for problem in status.problems), list(status.problems)
    return True
