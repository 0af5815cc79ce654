"""Same-node acceleration (--sockops-enable) beside a node without it, between two pods with policy on: p50 of a byte
there and back, of a MiB there and a byte back, and of connect, a byte there and back, reset. Metrics are
`<test>_<family>_p50_us`. KILIM_BENCH_ROUNDS makes it shorter.
"""

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path

from kilim.lab.client import ControlPlane
from kilim.lab.commands import replica_targets
from kilim.lab.pods import RunningPod
from tests.bench.measure import Result, compared, publish, rotated
from tests.bench.netload import build_netload, p50_us
from tests.bench.pods import add_bench_pods, port_policy
from tests.bench.stage import stage

ROUNDS = 10
_PORT = 5201
_TESTS = ("tcp_rr", "tcp_mib", "tcp_crr")
_FAMILIES = ("ipv4", "ipv6")
_OURS, _RIVAL = "sockops", "without"

_Pods = dict[str, RunningPod]


async def _pods(stack: AsyncExitStack, mode: str, options: tuple[str, ...]) -> _Pods:
    lab = await stack.enter_async_context(stage(1, 1, mode, options))
    pods = await add_bench_pods(lab)
    async with ControlPlane(replica_targets(lab)) as plane:
        await plane.wait(await plane.apply([("bench", port_policy(_PORT))]))
    return pods


def _sample(pods: _Pods, test: str, family: str) -> float:
    server = pods["b"]
    ip = server.ips[_FAMILIES.index(family)]
    return p50_us(test, Path(pods["a"].netns), Path(server.netns), ip, _PORT)


def _compare(pods: dict[str, _Pods], test: str, family: str) -> Result:
    samples: dict[str, list[float]] = {name: [] for name in pods}
    for number in range(-1, int(os.environ.get("KILIM_BENCH_ROUNDS", ROUNDS))):
        for name in rotated(list(pods), number):
            took = _sample(pods[name], test, family)
            if number >= 0:  # the first is to warm up
                samples[name].append(took)
    return compared(f"{test}_{family}_p50_us", "us", _RIVAL, samples[_OURS], samples[_RIVAL])


async def _run() -> None:
    build_netload()
    async with AsyncExitStack() as stack:
        pods = {
            _OURS: await _pods(stack, "s", ("--sockops-enable",)),
            _RIVAL: await _pods(stack, "w", ()),
        }
        results = []
        for test in _TESTS:
            for family in _FAMILIES:
                results.append(await asyncio.to_thread(_compare, pods, test, family))
    publish("sockops", results)


def run() -> None:
    asyncio.run(_run())
