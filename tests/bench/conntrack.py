"""What many connections cost a new one: p50 of connect, one byte there and back, reset, between two pods of a node
whose connection table is empty, has 1,000,000 live entries of others, or is full, so that each new one takes an old
one's place. Metrics are `tcp_crr_<case>_<family>_p50_us`; the rival is the empty table.
"""

import asyncio
import os
import time
from pathlib import Path

import numpy as np

from kilim.agent.bpf import layout
from kilim.agent.bpf.maps import Map, Rows
from kilim.agent.bpf.pins import find_pin
from kilim.lab.client import ControlPlane
from kilim.lab.commands import replica_targets
from kilim.lab.names import pin_dir
from kilim.lab.pods import RunningPod
from kilim.lab.topology import Lab
from tests.bench.measure import Result, compared, publish, rotated
from tests.bench.netload import BenchError, build_netload, p50_us
from tests.bench.pods import add_bench_pods, port_policy
from tests.bench.stage import stage

ROUNDS = 10
_PORT = 5201
_ROOM = 1 << 21
_EMPTY = "empty"
_CASES = {_EMPTY: 0, "1000000_entries": 1_000_000, "full": _ROOM}
_FAMILIES = ("ipv4", "ipv6")
_OPTIONS = (f"--bpf-ct-global-max={_ROOM}", "--conntrack-gc-interval=8760h")
_LIFE_TICKS = 8000
_ACK = 0x10

_Samples = dict[tuple[str, str], list[float]]


def _others(count: int) -> tuple[Rows, Rows]:
    """Established TCP connections from 64 addresses here to others everywhere, of both families in turn."""
    number = np.arange(count, dtype=np.uint32)
    ends = np.zeros((2, count, 4), ">u4")
    is_ipv4 = number % 2 == 0
    for end, prefix in zip(ends, (0x0A63_0000, 0x0A64_0000), strict=True):
        end[:, 0] = np.where(is_ipv4, 0, 0xFD00_0063)
        end[:, 2] = np.where(is_ipv4, 0xFFFF, 0)
        end[:, 3] = prefix
    ends[0, :, 3] += number % 64
    ends[1, :, 3] += number >> 6
    keys, values = np.zeros(count, layout.CT_KEY), np.zeros(count, layout.CT_ENTRY)
    for name, end in zip(("ip_lo", "ip_hi"), ends, strict=True):
        keys[name] = np.ascontiguousarray(end).view("V16")[:, 0]
    keys["port_lo"], keys["port_hi"], keys["protocol"] = 1024 + number % 50_000, 443, 6
    values["expires"] = (time.clock_gettime_ns(time.CLOCK_MONOTONIC) >> layout.TICK_SHIFT) + _LIFE_TICKS
    values["tcp_flags"] = _ACK
    values["verdicts"] = (1000, 1001, 1)
    return keys, values


class _Bench:
    def __init__(self, lab: Lab, pods: dict[str, RunningPod]) -> None:
        self._pods = pods
        self._table = Map.open(find_pin(pin_dir(lab.name) / lab.nodes[0].name / "maps", "ct"))
        self._others = _others(_ROOM)

    def close(self) -> None:
        os.close(self._table.fd)

    def hold(self, case: str) -> None:
        """So many connections and no others."""
        count = _CASES[case]
        self._table.delete(self._table.read()[0])
        self._table.update(*(rows[:count] for rows in self._others))
        held = len(self._table.read()[0])
        if held < 0.95 * count:  # of a full table the kernel may take some back early
            raise BenchError(f"the connection table holds {held} entries, not {count}")

    def p50_us(self, family: str) -> float:
        client, server = self._pods["a"], self._pods["b"]
        ip = server.ips[_FAMILIES.index(family)]
        return p50_us("tcp_crr", Path(client.netns), Path(server.netns), ip, _PORT)

    def rounds(self) -> _Samples:
        samples: _Samples = {(case, family): [] for case in _CASES for family in _FAMILIES}
        for number in range(-1, int(os.environ.get("KILIM_BENCH_ROUNDS", ROUNDS))):
            for case in rotated(list(_CASES), number):
                self.hold(case)
                for family in _FAMILIES:
                    took = self.p50_us(family)
                    if number >= 0:  # the first is to warm up
                        samples[case, family].append(took)
        return samples


def _results(samples: _Samples) -> list[Result]:
    return [
        compared(f"tcp_crr_{case}_{family}_p50_us", "us", _EMPTY, samples[case, family], samples[_EMPTY, family])
        for case in _CASES
        for family in _FAMILIES
        if case != _EMPTY
    ]


async def _run() -> None:
    build_netload()
    async with stage(nodes=1, replicas=1, options=_OPTIONS) as lab:
        pods = await add_bench_pods(lab)
        async with ControlPlane(replica_targets(lab)) as plane:
            await plane.wait(await plane.apply([("bench", port_policy(_PORT))]))
        bench = _Bench(lab, pods)
        try:
            publish("conntrack", _results(await asyncio.to_thread(bench.rounds)))
        finally:
            bench.close()


def run() -> None:
    asyncio.run(_run())
