"""100 agents on this machine, their tables in memory: from an append to the last of 100 acknowledgements.

One pod and identity per node, and changes of a policy that selects them all: every agent makes rows anew for each. The
acknowledgements are counted by one replica; every agent tells every replica.
"""

import asyncio
import json
import time

import grpc

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.transaction import put
from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import controlplane_pb2_grpc as rpc
from tests.bench.agents import Agents
from tests.bench.measure import Result, percentile, publish, single
from tests.bench.netload import BenchError
from tests.bench.plane import Plane, plane

AGENTS = 100
CHANGES = 200
_PROCESSES = 2
_WARM_UP = 10
_PATIENCE_S = 60.0
_PAUSE_S = 0.05
_MEASURE_S = 25.0


def _policy(port: int) -> dict[str, object]:
    """All pods take connections from one at `port`."""
    peer = {"podSelector": {"matchLabels": {"app": "app1"}}}
    ingress = [{"from": [peer], "ports": [{"protocol": "TCP", "port": port}]}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "bench", "namespace": "bench"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": ingress},
    }


class _Bench:
    def __init__(self, running: Plane, channel: grpc.aio.Channel) -> None:
        self._nodes = rpc.NodesStub(channel)  # type: ignore[no-untyped-call]
        self._resources = rpc.ResourcesStub(channel)  # type: ignore[no-untyped-call]
        self._cluster = rpc.ClusterStub(channel)  # type: ignore[no-untyped-call]
        self._replicas = running.replicas
        self._etcd = EtcdClient(running.etcd)

    async def close(self) -> None:
        await self._etcd.close()

    async def register(self, names: list[str]) -> int:
        """One pod on each node; the head after them."""
        async with asyncio.timeout(_PATIENCE_S):
            while len((await self._cluster.Status(api.StatusRequest())).nodes) < len(names):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        seq = 0
        for number, name in enumerate(names, 1):
            request = api.RegisterEndpointRequest(
                node=name, namespace="bench", name=f"pod{number}", container_id=f"c{number}", ip=f"10.9.{number}.2",
                endpoint_id=1, labels={"app": f"app{number}"},
            )  # fmt: skip
            seq = (await self._nodes.RegisterEndpoint(request)).seq
        return seq

    async def wait(self, seq: int) -> None:
        answer = await self._cluster.Wait(api.WaitRequest(seq=seq, timeout_ms=30_000))
        if not answer.done:
            raise BenchError(f"not every agent acknowledged event {seq}")

    async def change(self, number: int) -> tuple[float, float, float]:
        """Milliseconds: until answered, from there to the last acknowledgement, a bare transaction of that size."""
        body = json.dumps(_policy(1024 + number))
        begun = time.perf_counter()
        answer = await self._resources.Apply(api.ApplyRequest(manifests=[api.Manifest(json=body)], actor="bench"))
        answered = time.perf_counter()
        await self.wait(answer.seq)
        acknowledged = time.perf_counter()
        await self._etcd.transaction([], [put("/bench/log", body.encode()), put("/bench/head", body[:100].encode())])
        committed = time.perf_counter()
        return (answered - begun) * 1e3, (acknowledged - answered) * 1e3, (committed - acknowledged) * 1e3


async def _measure(replicas: int) -> list[Result]:
    names = [f"node{number}" for number in range(1, AGENTS + 1)]
    async with plane(replicas) as running:
        servers = tuple(each.address for each in running.replicas)
        crowds = [Agents.start(names[number::_PROCESSES], servers, running.folder) for number in range(_PROCESSES)]
        try:
            async with grpc.aio.insecure_channel(servers[0]) as channel:
                bench = _Bench(running, channel)
                await bench.wait(await bench.register(names))
                for number in range(_WARM_UP):
                    await bench.change(number)
                before = [each.cpu_s() for each in (*running.replicas, *crowds)]
                times: list[tuple[float, float, float]] = []
                until_s = time.monotonic() + _MEASURE_S
                while len(times) < CHANGES and time.monotonic() < until_s:
                    times.append(await bench.change(_WARM_UP + len(times)))
                    await asyncio.sleep(_PAUSE_S)
                spent_s = [
                    each.cpu_s() - cpu_s for each, cpu_s in zip((*running.replicas, *crowds), before, strict=True)
                ]
                await bench.close()
        finally:
            for crowd in crowds:
                await asyncio.to_thread(crowd.stop)
    answered, acknowledged, bare = (list(each) for each in zip(*times, strict=True))
    whole = [one + two for one, two in zip(answered, acknowledged, strict=True)]
    name = f"scale_{AGENTS}_agents_{replicas}_replicas"
    return [
        single(f"{name}_append_to_ack_p50_ms", "ms", [percentile(acknowledged, 0.5)]),
        single(f"{name}_append_to_ack_p99_ms", "ms", [percentile(acknowledged, 0.99)]),
        single(f"{name}_apply_to_ack_p50_ms", "ms", [percentile(whole, 0.5)]),
        single(f"{name}_apply_to_ack_p99_ms", "ms", [percentile(whole, 0.99)]),
        single(f"{name}_bare_commit_p50_ms", "ms", [percentile(bare, 0.5)]),
        single(f"{name}_replicas_cpu_per_change_ms", "ms", [sum(spent_s[:replicas]) / len(times) * 1e3]),
        single(f"{name}_agents_cpu_per_change_ms", "ms", [sum(spent_s[replicas:]) / len(times) * 1e3]),
    ]


async def _run() -> None:
    publish("scale", await _measure(1) + await _measure(3))


def run() -> None:
    asyncio.run(_run())
