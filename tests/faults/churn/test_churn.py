"""Policies and labels change in a tight loop while connections are made: what all versions allow is never cut, what all
deny never opens. Not one packet: a dropped SYN would be sent again and shows, and policy drops exactly what is denied.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path

import pytest

from kilim.lab.demo.traffic import Traffic, traffic_between
from kilim.lab.pods import running_pods
from kilim.lab.scenario import Probe
from kilim.lab.topology import IP_FAMILIES
from tests.faults.churn.variants import NODES, POLICY, VARIANTS, Ips, Variant, pod_object
from tests.faults.cluster.stage import Stage, until
from tests.faults.storm.probes import NAMESPACE, POLICY_DROPS, PORT, ROLES, Probed, Prober, ip_of, probe_wrongs

SECONDS = float(os.environ.get("KILIM_CHURN_SECONDS", "1.5"))  # of each variant
RATE = float(os.environ.get("KILIM_FAULT_PROBES", "1000"))
LEAST_TURNS, LEAST_PROBES = 6, 100
POLICIES = ("NetworkPolicy", "CiliumNetworkPolicy", "ClusterNetworkPolicy")


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
async def test_what_all_versions_agree_on_holds_all_the_time(
    stage: Stage, variant: Variant, capsys: pytest.CaptureFixture[str]
) -> None:
    ips = {pod.pod.name: pod.ips for pod in running_pods(stage.lab) if pod.pod.namespace == NAMESPACE}
    await begin_anew(stage, variant, ips)
    drops_before = await policy_drops(stage)
    prober = Prober(running_pods(stage.lab), RATE)
    try:
        await prober.start()  # its servers answer the streams too
        async with streams(stage) as flows:
            turns = await change(stage, variant, ips)
        probed = await prober.stop()
        drops = await policy_drops(stage) - drops_before
    finally:
        await prober.abandon()
    with capsys.disabled():
        print(
            f"\n  {variant.name}: {turns} changes, {probed}; policy dropped {drops}, {probed.denied_syns} were denied"
        )
    assert probe_wrongs(probed, [], drops) == []
    assert [pair for pair in probed.pairs if pair[4]] == [], "packets of allowed connections were lost"
    assert drops == probed.denied_syns
    for flow in flows:
        assert flow.stream.wrong == 0, flow.stream.first_wrong
    check_enough(turns, probed, flows)


def check_enough(turns: int, probed: Probed, flows: list[Traffic]) -> None:
    assert turns >= LEAST_TURNS
    assert min(probed.total(True), probed.total(False)) >= LEAST_PROBES
    assert all(flow.stream.done >= LEAST_TURNS for flow in flows)


async def begin_anew(stage: Stage, variant: Variant, ips: Ips) -> None:
    """Nothing of the variants before; this one's first version is enforced."""
    first = stage.replicas[0]
    for kind in POLICIES:
        for name in sorted(await first.names(kind)):
            namespace, _, own = name.rpartition("/")
            await first.delete(kind, namespace, own)
    pods = [pod_object(f"{role}-{node}", {"app": role, "on": node}) for role in ROLES for node in NODES]
    seq = (await first.apply(*pods, *variant.before(ips))).seq
    await enforced(stage, seq)


async def change(stage: Stage, variant: Variant, ips: Ips) -> int:
    """Each change as soon as the one before is acknowledged; asked of the replicas by turns. How many there were."""
    began, number = time.monotonic(), 0
    while number < LEAST_TURNS or time.monotonic() - began < SECONDS:
        number += 1
        replica = stage.replicas[number % len(stage.replicas)]
        if objects := variant.turn(number, ips):
            await replica.apply(*objects)
        else:
            await replica.delete(*POLICY)
    return number


@asynccontextmanager
async def streams(
    stage: Stage, each: int = 1, pause_s: float = 0.02, ip_families: tuple[str, ...] = IP_FAMILIES
) -> AsyncIterator[list[Traffic]]:
    """Long connections from each client to each server, so many over each family, that carry data all the time."""
    flows = []
    for family in ip_families:
        places = {key: (Path(pod.netns), ip_of(pod, family)) for key, pod in stage.pods().items()}
        for source, target in [*product(NODES, NODES)] * each:
            ends = f"{NAMESPACE}/client-{source}", f"{NAMESPACE}/server-{target}"
            flows.append(Traffic(traffic_between(places, Probe(*ends, PORT, "TCP", "allow", {})), (), (), pause_s))
    try:
        for flow in flows:
            await flow.start()
        yield flows
        await asyncio.gather(*(flow.stop() for flow in flows))
    finally:
        await asyncio.gather(*(flow.abandon() for flow in flows))


async def policy_drops(stage: Stage) -> int:
    return await packets(stage, POLICY_DROPS)


async def packets(stage: Stage, reasons: Set[str]) -> int:
    """That all nodes have counted under these."""
    counts = [count for node in stage.lab.agent_processes for count in (await stage.agent_status(node)).counts]
    return sum(count.packets for count in counts if count.reason in reasons)


async def enforced(stage: Stage, seq: int) -> None:
    async def all_do() -> bool:
        return all([(await stage.agent_status(node)).seq >= seq for node in stage.lab.agent_processes])

    await until(f"all nodes enforce {seq}", all_do)
