"""One lab for all tests of the folder; each test finds it calm, and leaves it so or fails."""

from collections.abc import AsyncIterator, Iterator

import pytest
import yaml

from kilim.lab import api
from kilim.lab.client import ControlPlane
from kilim.lab.commands import replica_targets
from kilim.lab.demo.story import policy_files
from kilim.lab.topology import Lab
from tests.faults.cluster.stage import Stage
from tests.faults.labs import lab_while_tested, mended_stage

NODES, REPLICAS = 2, 3


@pytest.fixture(scope="session")
def lab(name_prefix: str) -> Iterator[Lab]:
    """Two nodes, three replicas, one etcd; the shop runs under the demo's policies."""
    yield from lab_while_tested(f"{name_prefix}-x", _shop)


async def _shop(name: str) -> Lab:
    lab = await api.up(name, nodes=NODES, replicas=REPLICAS)
    async with ControlPlane(replica_targets(lab)) as plane:
        objects = [(file.name, body) for file in policy_files() for body in yaml.safe_load_all(file.read_text())]
        await plane.wait(await plane.apply(objects))
    return lab


@pytest.fixture
async def stage(lab: Lab) -> AsyncIterator[Stage]:
    async with mended_stage(lab) as stage:
        yield stage
