"""The pods of a benchmark: bench/a and bench/b on node1, bench/c on node2, all under an ingress and egress policy."""

from typing import Any

from kilim.lab.client import ControlPlane
from kilim.lab.commands import replica_targets
from kilim.lab.pods import RunningPod, add_pods, by_key
from kilim.lab.topology import Lab, Pod

NAMESPACE = "bench"
_PLACES = {"a": 0, "b": 0, "c": 1}


async def add_bench_pods(lab: Lab) -> dict[str, RunningPod]:
    """By name; each pod carries the label app=<name>."""
    pods = [
        Pod(NAMESPACE, name, {"app": name}, (), lab.nodes[min(place, len(lab.nodes) - 1)].name)
        for name, place in _PLACES.items()
    ]
    async with ControlPlane(replica_targets(lab)) as plane:
        running = by_key(await add_pods(lab, plane, {NAMESPACE: {}}, pods))
    return {key.partition("/")[2]: pod for key, pod in running.items()}


def port_policy(port: int) -> dict[str, Any]:
    """Selects every pod both ways and allows `port` from and to pod a, and nothing else."""
    ports = [{"protocol": "TCP", "port": port}, {"protocol": "UDP", "port": port}]
    everyone = [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "bench", "namespace": NAMESPACE},
        "spec": {
            "podSelector": {},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}], "ports": ports}],
            "egress": [{"to": everyone, "ports": ports}],
        },
    }
