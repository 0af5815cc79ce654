"""Pod to pod with policy on, against raw veths with kernel routing and the kernel's own VXLAN; p50 of one transaction.

Metrics are `<path>_<test>_p50_us`: path same_node or cross_node_vxlan, test tcp_rr, tcp_crr or udp_rr; rival `raw`.
Native routing between nodes and services are not there yet, so neither are `cross_node_native` and `service`.
"""

import asyncio
from pathlib import Path

from kilim.lab.client import ControlPlane
from kilim.lab.commands import replica_targets
from tests.bench.measure import Result, alternate, compared, publish
from tests.bench.netload import build_netload, p50_us
from tests.bench.pods import add_bench_pods, port_policy
from tests.bench.rawnet import RawNetwork
from tests.bench.stage import stage

ROUNDS = 8
_PORT = 5201
_TESTS = ("tcp_rr", "tcp_crr", "udp_rr")
_PATHS = {"same_node": ("b", "podB"), "cross_node_vxlan": ("c", "podC")}


async def _run() -> None:
    build_netload()
    raw = RawNetwork()
    try:
        raw.build()
        async with stage(nodes=2, replicas=1) as lab:
            pods = await add_bench_pods(lab)
            async with ControlPlane(replica_targets(lab)) as plane:
                await plane.wait(await plane.apply([("bench", port_policy(_PORT))]))
            results = [
                await asyncio.to_thread(
                    _compare, raw, path, test, Path(pods["a"].netns), Path(pods[ours].netns), pods[ours].ip
                )
                for path, (ours, _) in _PATHS.items()
                for test in _TESTS
            ]
    finally:
        raw.remove()
    publish("datapath", results)


def _compare(raw: RawNetwork, path: str, test: str, client: Path, server: Path, server_ip: str) -> Result:
    rival = _PATHS[path][1]

    def ours() -> float:
        return p50_us(test, client, server, server_ip, _PORT)

    def theirs() -> float:
        return p50_us(test, raw.netns("podA"), raw.netns(rival), raw.ip(rival), _PORT)

    ours(), theirs()
    mine, others = alternate(ours, theirs, ROUNDS)
    return compared(f"{path}_{test}_p50_us", "us", "raw", mine, others)


def run() -> None:
    asyncio.run(_run())
