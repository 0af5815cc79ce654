"""What policy costs a packet: p50 of one transaction between two pods of a node, by how many entries both have.

The policies are applied one after the other to the same two pods, in each round in another order; the rival is no
policy at all. `none_again` is that too, so that its ratio says how far the others' can be told from 1. An entry is a
peer (the other pod, or an address outside the cluster) and a port; half of them are of ingress, half of egress.
"""

import asyncio
from pathlib import Path
from typing import Any

from kilim.lab.client import ControlPlane
from kilim.lab.commands import replica_targets
from kilim.lab.pods import RunningPod
from kilim.lab.topology import Lab
from tests.bench.measure import Result, compared, publish, rotated, single
from tests.bench.memory import agent_kib, policy_maps_kib, policy_rows
from tests.bench.netload import BenchError, build_netload, p50_us
from tests.bench.pods import NAMESPACE, add_bench_pods
from tests.bench.stage import stage

ROUNDS = 20
_PORT = 5201
_TESTS = ("tcp_rr", "tcp_crr")
_NONE, _AGAIN = "none", "none_again"
_SHAPES = {"10": (1, 5), "1000": (10, 50), "10000": (50, 100)}  # peers, ports; each both ways
_CASES = (_NONE, _AGAIN, *_SHAPES)
_NAMES = {_AGAIN: _AGAIN} | {case: f"{case}_entries" for case in _SHAPES}
_HOST_ROWS = 2  # from and to the node itself, of each pod that policy selects
_SETTLE_S = 0.5  # rows of before are swept, the agent is idle
_PATIENCE_S = 10.0

_Samples = dict[tuple[str, str], list[float]]


def _apps(*names: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": "app", "operator": "In", "values": list(names)}]}


def _block(cidr: str) -> dict[str, Any]:
    return {"ipBlock": {"cidr": cidr}}


def entries_policy(peers: int, ports: int) -> dict[str, Any]:
    """Selects pods a and b. The ports are odd, so that none can share an entry; the load's is among them."""
    blocks: list[dict[str, Any]] = [
        {"ipBlock": {"cidr": f"198.51.{number // 200}.{number % 200}/32"}} for number in range(peers - 1)
    ]
    listed = [{"protocol": "TCP", "port": _PORT - 2 * (ports // 2) + 2 * number} for number in range(ports)]
    clients, servers = [{"podSelector": _apps("a")}, *blocks], [{"podSelector": _apps("b")}, *blocks]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "bench", "namespace": NAMESPACE},
        "spec": {
            "podSelector": _apps("a", "b"),
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": clients, "ports": listed}],
            "egress": [{"to": servers, "ports": listed}],
        },
    }


class _Bench:
    def __init__(self, lab: Lab, plane: ControlPlane, pods: dict[str, RunningPod]) -> None:
        self._lab = lab
        self._plane = plane
        self._pods = pods
        self._node = lab.nodes[0].name
        self._stands = False
        self._other = policy_rows(lab, self._node)

    async def enforce(self, case: str) -> None:
        """The case's policy and no other, down to the kernel."""
        if case in _SHAPES:
            seq = await self._plane.apply([("bench", entries_policy(*_SHAPES[case]))])
        elif self._stands:
            seq = await self._plane.delete("NetworkPolicy", NAMESPACE, "bench", "bench")
        else:
            seq = (await self._plane.status()).seq
        self._stands = case in _SHAPES
        await self._plane.wait(seq)
        await self._swept(2 * (int(case) + _HOST_ROWS) if case in _SHAPES else 0)
        await asyncio.sleep(_SETTLE_S)

    async def _swept(self, rows: int) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while policy_rows(self._lab, self._node) != self._other + rows:  # noqa: ASYNC110  # only asking tells
                    await asyncio.sleep(0.05)
        except TimeoutError:
            found = policy_rows(self._lab, self._node) - self._other
            raise BenchError(f"the kernel has {found} rows of the policy, not {rows}") from None

    def transaction_us(self, test: str) -> float:
        client, server = self._pods["a"], self._pods["b"]
        return p50_us(test, Path(client.netns), Path(server.netns), server.ip, _PORT)

    async def memory(self) -> list[Result]:
        """Case by case, from none on; the load has not run yet."""
        agent, maps = {}, {}
        for case in (_NONE, *_SHAPES):
            await self.enforce(case)
            agent[case] = agent_kib(self._lab, self._node)
            maps[case] = policy_maps_kib(self._lab, self._node)
        results = []
        for case in _SHAPES:
            results.append(single(f"agent_memory_{_NAMES[case]}_kib", "KiB", [agent[case] - agent[_NONE]]))
            results.append(single(f"map_memory_{_NAMES[case]}_kib", "KiB", [maps[case] - maps[_NONE]]))
        return results

    async def rounds(self) -> _Samples:
        samples: _Samples = {(test, case): [] for test in _TESTS for case in _CASES}
        for number in range(-1, ROUNDS):
            for case in rotated(_CASES, number):
                await self.enforce(case)
                for test in _TESTS:
                    took = await asyncio.to_thread(self.transaction_us, test)
                    if number >= 0:  # the first is to warm up
                        samples[test, case].append(took)
        return samples


def _results(samples: _Samples) -> list[Result]:
    return [
        compared(f"{test}_{_NAMES[case]}_p50_us", "us", "no policy", samples[test, case], samples[test, _NONE])
        for test in _TESTS
        for case in _CASES[1:]
    ]


async def _run() -> None:
    build_netload()
    async with stage(nodes=1, replicas=1) as lab:
        pods = await add_bench_pods(lab)
        async with ControlPlane(replica_targets(lab)) as plane:
            bench = _Bench(lab, plane, pods)
            memory = await bench.memory()
            results = _results(await bench.rounds())
    publish("policy_datapath", results + memory)


def run() -> None:
    asyncio.run(_run())
