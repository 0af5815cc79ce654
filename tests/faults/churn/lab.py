"""Two nodes, two replicas that are asked by turns, the prober's pods."""

from kilim.lab import api
from kilim.lab.client import ControlPlane
from kilim.lab.commands import replica_targets
from kilim.lab.pods import add_pods
from kilim.lab.topology import Lab
from tests.faults.churn.variants import NODES
from tests.faults.storm.probes import NAMESPACE, probe_pods


async def probed_lab(name: str) -> Lab:
    lab = await api.up(name, len(NODES), replicas=2, app=False)
    async with ControlPlane(replica_targets(lab)) as plane:
        await add_pods(lab, plane, {NAMESPACE: {}}, probe_pods(lab.nodes))
    return lab
