"""The cluster of the truth tables."""

from collections.abc import Sequence
from typing import Any

Value = dict[str, Any]

NAMESPACES, PODS, PORTS, PROTOCOLS = "xyz", "abc", (80, 81), ("TCP", "UDP", "SCTP")
OUTSIDE = {"near": "198.51.100.10", "far": "198.51.100.77"}
NODES = [{"name": f"node{number}", "podCIDRs": [f"10.61.{number}.0/24"]} for number in (1, 2)]


def cluster() -> Value:
    """The scenario without its steps; pods alternate between the nodes and are numbered from .2 on each."""
    keys = [(namespace, name) for namespace in NAMESPACES for name in PODS]
    return {
        "kind": "Scenario",
        "nodes": NODES,
        "namespaces": [{"name": name, "labels": {"ns": name}} for name in NAMESPACES],
        "pods": [_pod(namespace, name, number) for number, (namespace, name) in enumerate(keys)],
    }


def _pod(namespace: str, name: str, number: int) -> Value:
    node = number % 2 + 1
    return {
        "namespace": namespace,
        "name": name,
        "node": f"node{node}",
        "ip": f"10.61.{node}.{2 + number // 2}",
        "labels": {"pod": name},
        "serviceAccount": "robot" if name == "c" else "default",
        "ports": [_port(name, port, protocol) for port in PORTS for protocol in PROTOCOLS],
    }


def _port(pod: str, port: int, protocol: str) -> Value:
    """`only-b` is at b alone; `differs` is 80 at a, 81 at b and nowhere at c; all else is called after itself."""
    name = f"serve-{port}-{protocol.lower()}"
    if (pod, port, protocol) in (("a", 80, "TCP"), ("b", 81, "TCP")):
        name = "differs"
    elif (pod, port, protocol) == ("b", 80, "TCP"):
        name = "only-b"
    return {"port": port, "protocol": protocol, "name": name}


def outside() -> Value:
    """Two hosts that are no part of the cluster."""
    ports = [{"port": port, "protocol": protocol} for port in PORTS for protocol in ("TCP", "UDP")]
    return {"externals": [{"name": name, "ip": ip, "ports": ports} for name, ip in OUTSIDE.items()]}


def pod_object(pod: Value, labels: dict[str, str]) -> Value:
    """With where it runs, so that one that has gone comes back to its place."""
    ports = [{"containerPort": p["port"], "protocol": p["protocol"], "name": p["name"]} for p in pod["ports"]]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": pod["namespace"], "name": pod["name"], "labels": labels},
        "spec": {
            "nodeName": pod["node"],
            "serviceAccountName": pod["serviceAccount"],
            "containers": [{"name": "c", "ports": ports}],
        },
        "status": {"podIP": pod["ip"]},
    }


def all_probes(without: Sequence[str] = (), outside: bool = False) -> list[Value]:
    """Between all pods but those that are gone, and between them and the outside."""
    names = [name for name in (f"{namespace}/{pod}" for namespace in NAMESPACES for pod in PODS) if name not in without]
    probes = [
        {"from": source, "to": target, "port": port, "protocol": protocol}
        for source in names
        for target in names
        for port in PORTS
        for protocol in PROTOCOLS
    ]
    hosts = [f"ext:{name}" for name in OUTSIDE] if outside else []
    ends = [pair for name in names for host in hosts for pair in ((name, host), (host, name))]
    return probes + [
        {"from": source, "to": target, "port": port, "protocol": protocol}
        for source, target in ends
        for port in PORTS
        for protocol in ("TCP", "UDP")
    ]
