"""One lab for all storms: three etcd members on small disks, three replicas and two nodes whose clocks can be set."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kilim.lab import api, cluster
from kilim.lab.client import ControlPlane
from kilim.lab.commands import replica_targets
from kilim.lab.pods import add_pods
from kilim.lab.topology import Lab
from tests.faults.cluster.stage import Stage
from tests.faults.storm.probes import NAMESPACE, probe_pods, probe_policy

NODES, REPLICAS, MEMBERS, DISK_MIB = 2, 3, 3, 176
CLOCK_SOURCE = Path(__file__).with_name("clock.c")


@pytest.fixture(scope="session")
def clock_library(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = next((found for name in ("clang-19", "clang", "gcc", "cc") if (found := shutil.which(name))), None)
    assert compiler, "no C compiler: run `make setup`"
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    subprocess.run([compiler, *flags, "-o", str(library), str(CLOCK_SOURCE), "-ldl"], check=True)
    return str(library)


@pytest.fixture(scope="session")
def storm_lab(name_prefix: str, clock_library: str) -> Iterator[Lab]:
    cluster.check_machine()
    name = f"{name_prefix}-storm"
    try:
        yield asyncio.run(_lab(name, clock_library))
    finally:
        api.down(name)


async def _lab(name: str, clock_library: str) -> Lab:
    lab = await api.up(name, NODES, REPLICAS, MEMBERS, app=False, etcd_disk_mib=DISK_MIB, clock_library=clock_library)
    async with ControlPlane(replica_targets(lab)) as plane:
        await add_pods(lab, plane, {NAMESPACE: {}}, probe_pods(lab.nodes))
        await plane.wait(await plane.apply([("probes", probe_policy())]))
    return lab


@pytest.fixture
async def stage(storm_lab: Lab) -> AsyncIterator[Stage]:
    stage = Stage(storm_lab)
    try:
        yield stage
        await stage.mend()
    finally:
        await stage.close()
