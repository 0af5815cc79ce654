"""One lab for all variants: two nodes, two replicas that are asked by turns, the prober's pods."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from kilim.lab import api, cluster
from kilim.lab.client import ControlPlane
from kilim.lab.commands import replica_targets
from kilim.lab.pods import add_pods
from kilim.lab.topology import Lab
from tests.faults.churn.variants import NODES
from tests.faults.cluster.stage import Stage
from tests.faults.storm.probes import NAMESPACE, probe_pods


@pytest.fixture(scope="session")
def churn_lab(name_prefix: str) -> Iterator[Lab]:
    cluster.check_machine()
    name = f"{name_prefix}-churn"
    try:
        yield asyncio.run(_lab(name))
    finally:
        api.down(name)


async def _lab(name: str) -> Lab:
    lab = await api.up(name, len(NODES), replicas=2, app=False)
    async with ControlPlane(replica_targets(lab)) as plane:
        await add_pods(lab, plane, {NAMESPACE: {}}, probe_pods(lab.nodes))
    return lab


@pytest.fixture
async def stage(churn_lab: Lab) -> AsyncIterator[Stage]:
    stage = Stage(churn_lab)
    try:
        yield stage
        await stage.mend()
    finally:
        await stage.close()
