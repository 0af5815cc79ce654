"""A policy applied until enforced on 3 nodes, with no other policies there and with a thousand.

From the call to the last agent's acknowledgement, after its maps are written; 3 replicas, 3 agents. The policy that
changes selects a pod of each node. The others are the mix of `policies.py`, some of which select pods of these nodes,
too. Beside each change the same etcd commits a bare transaction of the same size. What the policies take of a node's
memory is measured where they have all come.
"""

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

from kilim.kvstore.client import EtcdClient
from kilim.lab.client import ControlPlane
from kilim.lab.commands import replica_targets
from kilim.lab.manifests import namespace_manifest
from kilim.lab.pods import add_pods
from kilim.lab.process import pid_of
from kilim.lab.topology import Lab, Pod
from tests.bench.change import against_bare, apply_beside_bare
from tests.bench.measure import Result, publish, single
from tests.bench.memory import agent_kib, policy_maps_kib, policy_rows
from tests.bench.plane import cpu_s
from tests.bench.pods import NAMESPACE, port_policy
from tests.bench.policies import app_labels, namespace_labels, namespace_name, policies
from tests.bench.stage import stage

CHANGES = 500
OTHERS = 1_000
_WARM_UP = 20
_NAMESPACES = 100
_PODS_A_NODE = 8  # of namespaces that the others speak of
_A_CALL = 50
_PATIENCE_S = 60.0
_SETTLE_S = 2.0  # rows of before are swept, agents are idle


def _pods(lab: Lab) -> Iterator[Pod]:
    for place, node in enumerate(lab.nodes):
        yield Pod(NAMESPACE, f"changed{place}", {"app": "a" if place == 0 else "b"}, (), node.name)
        for number in range(_PODS_A_NODE):
            app = place * _PODS_A_NODE + number
            yield Pod(namespace_name(number // 2), f"app{app}", app_labels(app), (), node.name)


async def _populate(lab: Lab, plane: ControlPlane) -> None:
    namespaces = {namespace_name(number): namespace_labels(number) for number in range(_NAMESPACES)}
    await plane.apply([("bench", namespace_manifest(name, labels)) for name, labels in namespaces.items()])
    await add_pods(lab, plane, {NAMESPACE: {}}, list(_pods(lab)))


async def _add_others(plane: ControlPlane) -> None:
    manifests = [("bench", each) for each in policies(OTHERS, _NAMESPACES)]
    for start in range(0, OTHERS, _A_CALL):
        seq = await plane.apply(manifests[start : start + _A_CALL])
    await plane.wait(seq, _PATIENCE_S)


class _Memory(NamedTuple):
    agent_kib: float
    maps_kib: float
    rows: int


class _Changes:
    """Milliseconds of each change, and of the bare transaction after it."""

    def __init__(self) -> None:
        self.answered: list[float] = []
        self.enforced: list[float] = []
        self.bare: list[float] = []
        self.cpu: dict[str, float] = {}  # of a process, for one change

    async def make(self, lab: Lab, plane: ControlPlane, etcd: EtcdClient) -> None:
        began = _cpu_ms(lab)
        for number in range(_WARM_UP + CHANGES):
            answered, enforced, bare = await apply_beside_bare(plane, etcd, port_policy(1024 + number))
            if number >= _WARM_UP:
                self.answered.append(answered)
                self.enforced.append(enforced)
                self.bare.append(bare)
        self.cpu = {name: (after - began[name]) / (_WARM_UP + CHANGES) for name, after in _cpu_ms(lab).items()}

    def results(self, lab: Lab, present: int) -> list[Result]:
        name = f"{present}_present"
        return [
            *(against_bare(f"answered_{name}", self.answered, self.bare, p) for p in (0.5, 0.99)),
            *(against_bare(f"enforced_{name}", self.enforced, self.bare, p) for p in (0.5, 0.99)),
            single(f"cpu_of_replicas_{name}_ms", "ms CPU", [sum(self.cpu[each.name] for each in lab.replicas)]),
            single(f"cpu_of_an_agent_{name}_ms", "ms CPU", [self.cpu[each.name] for each in lab.nodes]),
        ]


def _cpu_ms(lab: Lab) -> dict[str, float]:
    """Of each replica and agent so far."""
    names = [*(replica.name for replica in lab.replicas), *(node.name for node in lab.nodes)]
    pids = {name: pid_of(lab.name, name) for name in names}
    return {name: cpu_s(pid) * 1e3 for name, pid in pids.items() if pid is not None}


async def _memory(lab: Lab) -> list[_Memory]:
    """Node by node."""
    await asyncio.sleep(_SETTLE_S)
    names = [node.name for node in lab.nodes]
    return [_Memory(agent_kib(lab, name), policy_maps_kib(lab, name), policy_rows(lab, name)) for name in names]


def _memory_results(present: int, held: list[_Memory], without: list[_Memory]) -> list[Result]:
    pairs = list(zip(held, without, strict=True))
    return [
        single(f"agent_memory_{present}_present_kib", "KiB", [a.agent_kib - b.agent_kib for a, b in pairs]),
        single(f"map_memory_{present}_present_kib", "KiB", [a.maps_kib - b.maps_kib for a, b in pairs]),
        single(f"rows_{present}_present", "rows", [a.rows - b.rows for a, b in pairs]),
    ]


async def _measure(lab: Lab) -> list[Result]:
    etcd = EtcdClient([lab.etcd[0].loopback])
    try:
        async with ControlPlane(replica_targets(lab)) as plane:
            await _populate(lab, plane)
            without, alone, among = await _memory(lab), _Changes(), _Changes()
            await alone.make(lab, plane, etcd)
            one = await _memory(lab)
            await _add_others(plane)
            many = await _memory(lab)
            await among.make(lab, plane, etcd)
    finally:
        await etcd.close()
    return [
        *alone.results(lab, 1),
        *among.results(lab, OTHERS),
        *_memory_results(1, one, without),
        *_memory_results(OTHERS, many, without),
    ]


async def _run() -> None:
    async with stage(nodes=3) as lab:
        publish("propagate", await _measure(lab))


def run() -> None:
    asyncio.run(_run())
