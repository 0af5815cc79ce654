"""Pod to pod with policy on and flows counted, against the kernel's own ways and rivals' rules; p50 of one transaction.

Metrics are `<path>_<test>_<family>_p50_us`: path same_node, cross_node_native or cross_node_vxlan; test tcp_rr,
tcp_crr or udp_rr. Each rival is of the same rounds; `raw` is kernel routing, over VXLAN where the path is; see
rivals.py. KILIM_BENCH_ROUNDS and KILIM_BENCH_PATHS=same_node,… make it shorter.
"""

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from kilim.lab.client import ControlPlane
from kilim.lab.commands import replica_targets
from kilim.lab.pods import RunningPod
from tests.bench.measure import Result, compared, publish, rotated
from tests.bench.netload import BenchError, build_netload, p50_us
from tests.bench.pods import add_bench_pods, port_policy
from tests.bench.rawnet import RawNetwork
from tests.bench.rivals import rivals
from tests.bench.stage import stage

ROUNDS = 8
_PORT = 5201
_TESTS = ("tcp_rr", "tcp_crr", "udp_rr")
_FAMILIES = ("ipv4", "ipv6")
_NATIVE = ("--routing-mode=native", "--auto-direct-node-routes")
_OURS = "kilim"


@dataclass(frozen=True, slots=True)
class _Pair:
    client: Path
    server: Path
    server_ips: tuple[str, ...]  # by family

    def p50_us(self, test: str, family: str) -> float:
        return p50_us(test, self.client, self.server, self.server_ips[_FAMILIES.index(family)], _PORT)


_Paths = dict[str, dict[str, _Pair]]


def _raw_pair(network: RawNetwork, client: str, server: str) -> _Pair:
    return _Pair(network.netns(client), network.netns(server), network.ips(server))


def _our_pair(pods: dict[str, RunningPod], server: str) -> _Pair:
    return _Pair(Path(pods["a"].netns), Path(pods[server].netns), pods[server].ips)


async def _our_pods(stack: AsyncExitStack, mode: str, options: tuple[str, ...]) -> dict[str, RunningPod]:
    lab = await stack.enter_async_context(stage(2, 1, mode, options))
    pods = await add_bench_pods(lab)
    async with ControlPlane(replica_targets(lab)) as plane:
        await plane.wait(await plane.apply([("bench", port_policy(_PORT))]))
    return pods


async def _paths(stack: AsyncExitStack) -> _Paths:
    networks = stack.enter_context(rivals(_PORT, "raw", "iptables", "nftables", "redirect", "redirect_native"))
    tunnel = await _our_pods(stack, "t", ())
    native = await _our_pods(stack, "n", _NATIVE)
    redirect_native = _raw_pair(networks.pop("redirect_native"), "podA", "podD")
    same_node = {name: _raw_pair(network, "podA", "podB") for name, network in networks.items()}
    routed = {"raw": _raw_pair(networks["raw"], "podA", "podD"), "redirect": redirect_native}
    return {
        "same_node": {_OURS: _our_pair(tunnel, "b"), **same_node},
        "cross_node_native": {_OURS: _our_pair(native, "c"), **routed},
        "cross_node_vxlan": {_OURS: _our_pair(tunnel, "c"), "raw": _raw_pair(networks["raw"], "podT", "podC")},
    }


def _compare(path: str, pairs: dict[str, _Pair], test: str, family: str) -> list[Result]:
    samples: dict[str, list[float]] = {name: [] for name in pairs}
    rounds = int(os.environ.get("KILIM_BENCH_ROUNDS", ROUNDS))
    for number in range(-1, rounds):
        for name in rotated(list(pairs), number):
            took = pairs[name].p50_us(test, family)
            if number >= 0:  # the first is to warm up
                samples[name].append(took)
    metric = f"{path}_{test}_{family}_p50_us"
    return [compared(metric, "us", name, samples[_OURS], samples[name]) for name in pairs if name != _OURS]


async def _run() -> None:
    build_netload()
    async with AsyncExitStack() as stack:
        paths = await _paths(stack)
        wanted = os.environ.get("KILIM_BENCH_PATHS", ",".join(paths)).split(",")
        if unknown := set(wanted) - set(paths):
            raise BenchError(f"KILIM_BENCH_PATHS: must be of {', '.join(paths)}, not {', '.join(sorted(unknown))}")
        results = []
        for path in wanted:
            for test in _TESTS:
                for family in _FAMILIES:
                    results += await asyncio.to_thread(_compare, path, paths[path], test, family)
    publish("datapath", results)


def run() -> None:
    asyncio.run(_run())
