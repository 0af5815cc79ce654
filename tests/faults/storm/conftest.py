"""A lab for each storm: three etcd members on small disks, three replicas and two nodes whose clocks can be set."""

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
from kilim.v1 import controlplane_pb2 as pb
from tests.faults.cluster.stage import CALL_S, Stage
from tests.faults.storm.probes import NAMESPACE, probe_pods, probe_policy
from tests.faults.storm.stage import Archive, StormStage

# So small that snapshots, trimming and compaction fall into every storm, under everybody who follows.
SETTINGS = {
    "snapshot-every-events": "20",
    "snapshot-retention-count": "2",
    "log-retention-events": "30",
    "read-back-interval-s": "2",
}
NODES, REPLICAS, MEMBERS, DISK_MIB = 2, 3, 3, 600
CLOCK_SOURCE = Path(__file__).with_name("clock.c")


@pytest.fixture(scope="session")
def clock_library(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = next((found for name in ("clang-19", "clang", "gcc", "cc") if (found := shutil.which(name))), None)
    assert compiler, "no C compiler: run `make setup`"
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    subprocess.run([compiler, *flags, "-o", str(library), str(CLOCK_SOURCE), "-ldl"], check=True)
    return str(library)


@pytest.fixture
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
    stage = Stage(lab)
    try:
        for name, value in SETTINGS.items():
            request = pb.ChangeSettingRequest(name=name, value=value, actor="test")
            await stage.replicas[0].cluster.ChangeSetting(request, timeout=CALL_S)
    finally:
        await stage.close()
    return lab


@pytest.fixture
async def stage(storm_lab: Lab) -> AsyncIterator[StormStage]:
    stage = StormStage(storm_lab, Archive())
    await stage.read_log()
    try:
        yield stage
        await stage.mend()
    finally:
        await stage.close()
