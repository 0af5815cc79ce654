"""Random scenarios with the oracle's expectations, played on the desired tables: what differs, if anything.

A kind of policy takes part as soon as the product knows it.
"""

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

from kilim.lab.run import run_scenario
from kilim.lab.scenario import parse_scenario
from kilim.model.resource import KINDS
from tests.oracle.scenarios import with_expectations
from tests.pure.policy import worlds
from tests.pure.policy.cilium_policies import cidr_group, cilium_network_policy, clusterwide_policy
from tests.pure.policy.network_policies import cluster_network_policy, network_policy
from tests.pure.policy.services import endpoint_slice, service, service_policy

Value = dict[str, Any]

STEPS, PROBES = 3, 24
ALL_KINDS = (
    "NetworkPolicy",
    "ClusterNetworkPolicy",
    "CiliumNetworkPolicy",
    "CiliumClusterwideNetworkPolicy",
    "CiliumCIDRGroup",
    "Service",
    "EndpointSlice",
)


def known_kinds() -> tuple[str, ...]:
    return tuple(kind for kind in ALL_KINDS if kind in KINDS)


@dataclass(slots=True)
class Count:
    scenarios: int = 0
    probes: int = 0
    policies: Counter[str] = field(default_factory=Counter)
    expected: Counter[str] = field(default_factory=Counter)
    wrong: list[Value] = field(default_factory=list)  # scenarios with one step and one probe, as a file would hold them

    def __str__(self) -> str:
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(self.policies.items()))
        outcomes = ", ".join(f"{number} {outcome}" for outcome, number in sorted(self.expected.items()))
        return f"{self.probes} probes ({outcomes}) in {self.scenarios} clusters with {kinds}: {len(self.wrong)} differ"


def scenario(
    random: Random, kinds: tuple[str, ...], probes_a_step: int = PROBES, families: tuple[str, ...] = ()
) -> Value:
    """Policies, and labels, come and go between its steps. Of some families if none are said."""
    document = worlds.cluster(random, families)
    places = [f"{pod['namespace']}/{pod['name']}" for pod in document["pods"]]
    steps: list[Value] = []
    present: list[Value] = []
    used: set[int] = set()
    for _ in range(STEPS):
        applied = [_policy(random, kinds, used) for _ in range(random.randint(2, 4))]
        present += [each for each in applied if not any(_same(each, other) for other in present)]
        gone = [random.choice(present)] if worlds.maybe(random, 0.3) else []
        present = [each for each in present if not any(_same(each, other) for other in gone)]
        if steps and worlds.maybe(random, 0.3):
            applied.insert(0, worlds.relabelled(random, document))
        probes = [worlds.probe(random, places, document["ipFamilies"]) for _ in range(probes_a_step)]
        steps.append({"apply": applied, "delete": gone, "probes": probes})
    return with_expectations({**document, "steps": steps})


def _policy(random: Random, kinds: tuple[str, ...], used: set[int]) -> Value:
    name = f"p{random.randint(1, 4)}"  # few: policies are replaced in place
    match random.choice(kinds):
        case "NetworkPolicy":
            return network_policy(random, name)
        case "ClusterNetworkPolicy":
            priority = random.choice([number for number in range(1000) if number not in used])
            used.add(priority)
            return cluster_network_policy(random, name, priority)
        case "CiliumNetworkPolicy":
            return cilium_network_policy(random, name)
        case "CiliumClusterwideNetworkPolicy":
            return clusterwide_policy(random, name)
        case "policy of services":
            return service_policy(random, name)
        case "Service":
            return service(random)
        case "EndpointSlice":
            return endpoint_slice(random)
    return cidr_group(random)


def _same(one: Value, other: Value) -> bool:
    return (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) == (
        other["kind"], other["metadata"].get("namespace"), other["metadata"]["name"],
    )  # fmt: skip


async def play(document: Value, count: Count) -> None:
    """Adds to the count. A policy that is refused is a difference too: all that is generated is valid."""
    compare(document, await run_scenario(parse_scenario(document, "random")), count)


def compare(document: Value, answer: Value, count: Count) -> None:
    count.scenarios += 1
    for number, (step, got) in enumerate(zip(document["steps"], answer["steps"], strict=True)):
        count.policies.update(manifest["kind"] for manifest in step["apply"])
        count.wrong += [{"refused": why, "entry": index, "step": step} for index, why in got["refused"].items()]
        for probe in got["probes"]:
            count.probes += 1
            count.expected[probe["expect"]] += 1
            if probe["got"] != probe["expect"]:
                steps = [{**each, "probes": []} for each in document["steps"][:number]]
                count.wrong.append({**document, "steps": [*steps, {**step, "probes": [probe]}]})
