"""A scenario about nodes: by label, by address and by entity, of every kind of policy, and the pod's own one."""

from typing import Any

from tests.oracle.scenarios import with_expectations

Value = dict[str, Any]

PORTS = [{"port": 80, "protocol": "TCP"}]
LABELS = {"node1": {"zone": "a"}, "node2": {"zone": "b"}, "node3": {"zone": "a", "disk": "ssd"}}
OTHER_NODE = "192.168.60.102/32"  # of node2
ALL_NODES = "192.168.60.0/24"


def nodes_scenario() -> Value:
    steps = [
        _applied(_cilium(ingress=[{"fromNodes": [_labels(zone="a")]}], egress=[{"toNodes": [_labels(disk="ssd")]}])),
        _applied(_cilium(ingressDeny=[{"fromNodes": [_labels(zone="b")]}], enableDefaultDeny={"ingress": False})),
        _applied(_cilium(egress=[{"toEntities": ["remote-node"]}], ingressDeny=[{"fromEntities": ["host"]}])),
        _applied(_cilium(egressDeny=[{"toEntities": ["cluster"]}]), _network([{"ipBlock": {"cidr": "0.0.0.0/0"}}])),
        _applied(_network([{"ipBlock": {"cidr": "0.0.0.0/0", "except": [OTHER_NODE]}}]), gone=_cilium()),
        _applied(_admin({"nodes": _labels(zone="a")}), gone=_network([])),
        _applied(_admin({"networks": [ALL_NODES]})),
    ]
    pods = [_pod("a", 1), _pod("b", 2)]
    scenario = {
        "kind": "Scenario",
        "nodes": [
            {"name": name, "podCIDRs": [f"10.61.{name[-1]}.0/24"], "labels": labels} for name, labels in LABELS.items()
        ],
        "namespaces": [{"name": "x"}],
        "pods": pods,
        "externals": [{"name": "web", "ip": "198.51.100.10", "ports": PORTS}],
        "steps": steps,
    }
    return with_expectations(scenario)


def _pod(name: str, node: int) -> Value:
    return {"namespace": "x", "name": name, "node": f"node{node}", "ip": f"10.61.{node}.5", "ports": PORTS}


def _applied(*manifests: Value, gone: Value | None = None) -> Value:
    places = [f"node:{name}" for name in LABELS] + ["x/b", "ext:web"]
    pairs = [("x/a", place) for place in places] + [(place, "x/a") for place in places]
    probes = [
        {"from": source, "to": target, "port": port, "protocol": protocol}
        for source, target in pairs
        for port, protocol in ((80, "TCP"), (8, "ICMP"))
    ]
    return {"apply": list(manifests), "delete": [gone] if gone else [], "probes": probes}


def _labels(**labels: str) -> Value:
    return {"matchLabels": labels}


def _cilium(**sections: Any) -> Value:
    return _manifest("cilium.io/v2", "CiliumNetworkPolicy", {"endpointSelector": {}, **sections}, namespace="x")


def _network(peers: list[Value]) -> Value:
    spec = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": peers}]}
    return _manifest("networking.k8s.io/v1", "NetworkPolicy", spec, namespace="x")


def _admin(peer: Value) -> Value:
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [{"action": "Deny", "to": [peer]}]}
    return _manifest("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", spec)


def _manifest(version: str, kind: str, spec: Value, **place: str) -> Value:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "p", **place}, "spec": spec}
