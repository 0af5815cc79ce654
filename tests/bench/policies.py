"""A cluster with much policy, as data: namespaces of teams, apps with tiers and versions, ten policies a namespace.

The mix: NetworkPolicies by labels, expressions and namespaces, with ports, ranges and named ports; ipBlocks with
exceptions; CiliumNetworkPolicies; and for every fifty of these one of the whole cluster.
"""

from typing import Any

Manifest = dict[str, Any]

TIERS = ("front", "middle", "data", "batch")
TEAMS = 10
_KINDS = {"networking.k8s.io/v1": "NetworkPolicy", "cilium.io/v2": "CiliumNetworkPolicy"}
_DNS = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]


def namespace_name(number: int) -> str:
    return f"ns{number}"


def namespace_labels(number: int) -> dict[str, str]:
    return {"team": f"team{number % TEAMS}", "stage": "prod" if number % 2 else "test"}


def app_labels(app: int) -> dict[str, str]:
    return {"app": f"app{app}", "tier": TIERS[app % len(TIERS)], "version": f"v{app % 3}"}


def policies(count: int, namespaces: int) -> list[Manifest]:
    """`count` of them, over so many namespaces."""
    return [policy(number, number % namespaces) for number in range(count)]


def policy(number: int, namespace: int) -> Manifest:
    if number % 50 == 49:
        return _of_the_cluster(number)
    shape = _SHAPES[number // 7 % len(_SHAPES)]
    return shape(f"p{number}", namespace_name(namespace), number)


def _object(api: str, name: str, namespace: str, spec: Manifest) -> Manifest:
    return {"apiVersion": api, "kind": _KINDS[api], "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def _k8s(name: str, namespace: str, subjects: Manifest, **directions: list[Manifest]) -> Manifest:
    types = [direction.capitalize() for direction in directions]
    spec = {"podSelector": subjects, "policyTypes": types, **directions}
    return _object("networking.k8s.io/v1", name, namespace, spec)


def _tier(name: str) -> Manifest:
    return {"matchLabels": {"tier": name}}


def _isolation(name: str, namespace: str, number: int) -> Manifest:
    """Everybody of the namespace, at any port."""
    return _k8s(name, namespace, {}, ingress=[{"from": [{"podSelector": {}}]}])


def _by_tier(name: str, namespace: str, number: int) -> Manifest:
    peers = [{"podSelector": {"matchExpressions": [{"key": "tier", "operator": "In", "values": ["front", "batch"]}]}}]
    ports = [{"port": 8000 + number % 100}, {"port": 9000, "endPort": 9099}]
    return _k8s(name, namespace, _tier("middle"), ingress=[{"from": peers, "ports": ports}])


def _of_a_team(name: str, namespace: str, number: int) -> Manifest:
    teams = {"matchLabels": {"team": f"team{number % TEAMS}"}}
    peer = {"namespaceSelector": teams, "podSelector": _tier("front")}
    return _k8s(name, namespace, _tier("data"), ingress=[{"from": [peer], "ports": [{"port": "http"}]}])


def _name_service(name: str, namespace: str, number: int) -> Manifest:
    system = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace_name(0)}}}
    return _k8s(name, namespace, {}, egress=[{"to": [system], "ports": _DNS}, {"to": [{"podSelector": {}}]}])


def _outside(name: str, namespace: str, number: int) -> Manifest:
    net = f"203.{number % 200}"
    block = {"cidr": f"{net}.0.0/16", "except": [f"{net}.4.0/24"]}
    return _k8s(name, namespace, _tier("batch"), egress=[{"to": [{"ipBlock": block}], "ports": [{"port": 443}]}])


def _expressions(name: str, namespace: str, number: int) -> Manifest:
    older = {"matchExpressions": [{"key": "version", "operator": "NotIn", "values": ["v0"]}]}
    known = {"matchExpressions": [{"key": "app", "operator": "Exists"}]}
    prod = {"namespaceSelector": {"matchLabels": {"stage": "prod", "team": f"team{number % TEAMS}"}}}
    peers = [{**prod, "podSelector": older}, {"podSelector": known}]
    return _k8s(name, namespace, _tier("front"), ingress=[{"from": peers, "ports": [{"port": 80}, {"port": 443}]}])


def _cilium(name: str, namespace: str, number: int) -> Manifest:
    ports = [{"ports": [{"port": str(5000 + number % 50), "protocol": "TCP"}]}]
    spec = {
        "endpointSelector": _tier("data"),
        "ingress": [{"fromEndpoints": [_tier("middle")], "toPorts": ports}],
        "ingressDeny": [{"fromEndpoints": [{"matchLabels": {"version": "v2"}}]}],
    }
    return _object("cilium.io/v2", name, namespace, spec)


def _entities(name: str, namespace: str, number: int) -> Manifest:
    spec = {
        "endpointSelector": _tier("front"),
        "egress": [{"toEntities": ["world"]}, {"toEndpoints": [{"matchLabels": {"app": f"app{number % 100}"}}]}],
    }
    return _object("cilium.io/v2", name, namespace, spec)


_SHAPES = (
    _isolation,
    _by_tier,
    _of_a_team,
    _name_service,
    _outside,
    _expressions,
    _cilium,
    _entities,
)


def _of_the_cluster(number: int) -> Manifest:
    if number % 100 == 99:
        subjects = {"namespaces": {"matchLabels": {"team": f"team{number // 100 % TEAMS}"}}}
        rule = {"action": "Deny", "from": [{"namespaces": {"matchLabels": {"team": f"team{number // 100 % 3}"}}}]}
        spec: Manifest = {"tier": "Admin", "priority": number % 1000, "subject": subjects, "ingress": [rule]}
        api, kind = "policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"
    else:
        spec = {"endpointSelector": _tier("batch"), "ingressDeny": [{"fromEntities": ["world"]}]}
        api, kind = "cilium.io/v2", "CiliumClusterwideNetworkPolicy"
    return {"apiVersion": api, "kind": kind, "metadata": {"name": f"p{number}"}, "spec": spec}
