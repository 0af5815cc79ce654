"""One lab for all variants: two nodes, two replicas that are asked by turns, the prober's pods."""

from collections.abc import AsyncIterator, Iterator

import pytest

from kilim.lab import api
from kilim.lab.client import ControlPlane
from kilim.lab.commands import replica_targets
from kilim.lab.pods import add_pods
from kilim.lab.topology import Lab
from tests.faults.churn.variants import NODES
from tests.faults.cluster.stage import Stage
from tests.faults.labs import lab_while_tested, mended_stage
from tests.faults.storm.probes import NAMESPACE, probe_pods


@pytest.fixture(scope="session")
def churn_lab(name_prefix: str) -> Iterator[Lab]:
    yield from lab_while_tested(f"{name_prefix}-churn", _lab)


async def _lab(name: str) -> Lab:
    lab = await api.up(name, len(NODES), replicas=2, app=False)
    async with ControlPlane(replica_targets(lab)) as plane:
        await add_pods(lab, plane, {NAMESPACE: {}}, probe_pods(lab.nodes))
    return lab


@pytest.fixture
async def stage(churn_lab: Lab) -> AsyncIterator[Stage]:
    async with mended_stage(churn_lab) as stage:
        yield stage
