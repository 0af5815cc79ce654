"""Bytes of a node's BPF maps, as they are at default settings and in a cluster of 100,000 endpoints, each with an
address of both families, 110 of them here, all selected by policy.

`<map>_…_kib` is what the kernel charges for a map (`memlock`), `kernel_…_kib` by what its memory has really grown
(slabs, vmalloc, per CPU): the nodes between a trie's rows and what allocators round up are in that alone.
"""

import os
from pathlib import Path

from kilim.agent.bpf.datapath import Datapath, Settings, load_objects, remove_all
from kilim.agent.bpf.pins import map_name
from kilim.model.address import IPV6
from kilim.model.tables import EndpointValue, IpcacheKey, IpcacheValue, TablesDelta
from tests.bench.measure import Result, publish, single
from tests.bench.memory import memlock
from tests.bench.netload import BenchError

ENDPOINTS, HERE = 100_000, 110
_PER_NODE = 110
_IDENTITIES = 10_000
_FIRST_IDENTITY = 256
_NODE, _NODE_IPV6 = 0xC0A80001, IPV6 | 0xFD00_0060 << 96
_POD, _POD_IPV6 = 0x0A80_0000, IPV6 | 0xFD00_0010 << 96
_BOTH_ENFORCED = 3
_ROOT = Path(f"/sys/fs/bpf/kilim-bench{os.getpid()}")
_KERNEL = ("Slab:", "VmallocUsed:", "Percpu:")


def _kernel_kib() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(_KERNEL))


def _maps_kib() -> dict[str, float]:
    return {map_name(pin.name): memlock(pin) / 1024 for pin in sorted((_ROOT / "maps").iterdir())}


def _identity(number: int) -> int:
    return _FIRST_IDENTITY + number % _IDENTITIES


def _cluster() -> TablesDelta:
    ipcache: dict[IpcacheKey, IpcacheValue] = {}
    for number in range(ENDPOINTS):
        node = number // _PER_NODE
        value = _identity(number), _NODE + node if node else 0
        ipcache[_POD + number, 32] = ipcache[_POD_IPV6 + number, 128] = value
    endpoints = {
        ip + number: EndpointValue(1 + number, _identity(number)) for number in range(HERE) for ip in (_POD, _POD_IPV6)
    }
    return TablesDelta(ipcache, endpoints, {_identity(number): _BOTH_ENFORCED for number in range(HERE)})


def _fill(datapath: Datapath) -> None:
    delta = _cluster()
    datapath.tables.write(delta, 1, dict.fromkeys(delta.endpoints, 1))
    if len(datapath.tables.read_rows().ipcache) != len(delta.ipcache):
        raise BenchError("the kernel does not hold all rows of the cluster")


def _results(case: str, kernel_kib: int) -> list[Result]:
    maps = _maps_kib()
    figures = {"kernel": float(kernel_kib), "maps": sum(maps.values()), **maps}
    return [single(f"{name}_{case}_kib", "KiB", [kib]) for name, kib in figures.items()]


def run() -> None:
    if os.geteuid():
        raise BenchError("root is missing: maps of the kernel are measured")
    before = _kernel_kib()
    try:
        datapath = load_objects(Settings(_NODE, node_ipv6=_NODE_IPV6), _ROOT)
        results = _results("defaults", _kernel_kib() - before)
        _fill(datapath)
        results += _results(f"{ENDPOINTS}_endpoints", _kernel_kib() - before)
        datapath.close()
    finally:
        remove_all(_ROOT)
    publish("map_memory", results)
