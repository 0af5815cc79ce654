"""A scenario about services in policy: with a selector and without, by name and by label, that come, change and go; and
API servers, outside and on nodes."""

from typing import Any

from tests.oracle.scenarios import with_expectations

Value = dict[str, Any]

PORTS = [{"port": port, "protocol": "TCP"} for port in (80, 81)]
OUTSIDE = {"near": "198.51.100.10", "far": "203.0.113.5"}
NEAR, FAR = OUTSIDE.values()
OTHER_NODE, OWN_NODE = "192.168.60.102", "192.168.60.101"  # of x/a
TCP_80 = [{"ports": [{"port": "80", "protocol": "TCP"}]}]
PODS = (("x", "a", 1, {"app": "web"}), ("x", "b", 2, {"app": "db"}), ("y", "b", 2, {"app": "db"}))


def services_scenario() -> Value:
    steps = [
        _applied(_cilium(egress=[_to(_named("db", "x"))])),  # no such service yet
        _applied(_service("db", "x", app="db"), _service("db", "y", app="db")),
        _applied(_cilium(egress=[_to(_named("db"))])),  # of every namespace
        _applied(_service("db", "x", app="web"), gone=_service("db", "y")),
        _applied(_cilium(egress=[{**_to(_named("out", "x")), "toPorts": TCP_80}]), _service("out", "x")),
        _applied(_slice("out", "x", 1, NEAR), _slice("out", "x", 2, FAR, OTHER_NODE, "10.61.2.2")),
        _applied(_slice("out", "x", 1), gone=_slice("out", "x", 2)),
        _applied(_slice("out", "x", 1, FAR), _cilium(egress=[_to(_labelled(side="out"), _named("db", "x"))])),
        _applied(_service("out", "x", labels={"side": "out"})),
        _applied(_cilium(egress=[{"toEntities": ["all"]}], egressDeny=[_to(_labelled(side="out"), _named("db", "x"))])),
        _applied(_slice("out", "x", 1, NEAR), _service("db", "x", app="db")),
        _applied(_cilium(egress=[_api_servers("to")], ingress=[_api_servers("from")])),
        _applied(_slice("kubernetes", "default", 1, FAR, OTHER_NODE, OWN_NODE)),
        _applied(_slice("kubernetes", "default", 1, NEAR, OTHER_NODE)),
        _applied(_cilium(egress=[{"toEntities": ["cluster"]}], ingressDeny=[_api_servers("from")])),
        _applied(gone=_slice("kubernetes", "default", 1)),
    ]
    pods = [
        {"namespace": namespace, "name": name, "node": f"node{node}", "ip": f"10.61.{node}.{2 + number}",
         "labels": labels, "ports": PORTS}
        for number, (namespace, name, node, labels) in enumerate(PODS)
    ]  # fmt: skip
    scenario = {
        "kind": "Scenario",
        "nodes": [{"name": f"node{number}", "podCIDRs": [f"10.61.{number}.0/24"]} for number in (1, 2, 3)],
        "namespaces": [{"name": "x"}, {"name": "y"}],
        "pods": pods,
        "externals": [{"name": name, "ip": ip, "ports": PORTS} for name, ip in OUTSIDE.items()],
        "steps": steps,
    }
    return with_expectations(scenario)


def _applied(*manifests: Value, gone: Value | None = None) -> Value:
    places = ["x/b", "y/b", *(f"ext:{name}" for name in OUTSIDE), *(f"node:node{number}" for number in (1, 2, 3))]
    pairs = [("x/a", place) for place in places] + [(place, "x/a") for place in places]
    probes = [
        {"from": source, "to": target, "port": port, "protocol": "TCP"} for source, target in pairs for port in (80, 81)
    ]
    return {"apply": list(manifests), "delete": [gone] if gone else [], "probes": probes}


def _to(*references: Value) -> Value:
    return {"toServices": list(references)}


def _named(name: str, namespace: str = "") -> Value:
    return {"k8sService": {"serviceName": name} | ({"namespace": namespace} if namespace else {})}


def _labelled(**labels: str) -> Value:
    return {"k8sServiceSelector": {"selector": {"matchLabels": labels}}}


def _api_servers(word: str) -> Value:
    return {f"{word}Entities": ["kube-apiserver"]}


def _cilium(**sections: Any) -> Value:
    spec = {"endpointSelector": {"matchLabels": {"app": "web"}}, **sections}
    return _manifest("cilium.io/v2", "CiliumNetworkPolicy", "p", "x", spec=spec)


def _service(name: str, namespace: str, labels: Value | None = None, **selector: str) -> Value:
    spec = {"ports": [{"port": 80}]} | ({"selector": selector} if selector else {})
    return _manifest("v1", "Service", name, namespace, labels, spec=spec)


def _slice(service: str, namespace: str, number: int, *addresses: str) -> Value:
    labels = {"kubernetes.io/service-name": service}
    body = {"addressType": "IPv4", "endpoints": [{"addresses": [each]} for each in addresses], "ports": [{"port": 80}]}
    return _manifest("discovery.k8s.io/v1", "EndpointSlice", f"{service}-{number}", namespace, labels, **body)


def _manifest(version: str, kind: str, name: str, namespace: str, labels: Value | None = None, **body: Any) -> Value:
    metadata = {"name": name, "namespace": namespace, "labels": labels or {}}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **body}
