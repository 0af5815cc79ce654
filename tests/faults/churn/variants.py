"""What changes while the probes run: versions of policies and labels under which the same connections are allowed.

client ─▶ server   allowed by all versions        stranger ─▶ server   denied by all, at the server (ingress)
                                                  server ─▶ stranger   denied by all, mostly at the server (egress)
"""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from itertools import product
from typing import Any

from kilim.lab.manifests import namespace_manifest
from tests.faults.storm.probes import NAMESPACE, PORT, ROLES, probe_policy

Value = dict[str, Any]
Ips = dict[str, tuple[str, ...]]  # of each family, by pod

NODES = ("node1", "node2")
SERVER = {"matchLabels": {"app": "server"}}
POLICY = ("NetworkPolicy", NAMESPACE, "probes")


@dataclass(frozen=True, slots=True)
class Variant:
    """`before` stands when the probes begin; `turn(number, ips)` is what the next change applies, nothing: `POLICY` is
    deleted."""

    name: str
    before: Callable[[Ips], list[Value]]
    turn: Callable[[int, Ips], list[Value]]


def network_policy(name: str, subject: Value, **spec: Any) -> Value:
    types = [key.capitalize() for key in spec]
    metadata = {"name": name, "namespace": NAMESPACE}
    body = {"podSelector": subject, "policyTypes": types, **spec}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": body}


def cilium_policy(name: str, subject: Value, **spec: Any) -> Value:
    metadata = {"name": name, "namespace": NAMESPACE}
    body = {"endpointSelector": subject, **spec}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": metadata, "spec": body}


def cluster_policy(name: str, priority: int, **spec: Any) -> Value:
    subject = {"pods": {"namespaceSelector": {}, "podSelector": SERVER}}
    body = {"tier": "Admin", "priority": priority, "subject": subject, **spec}
    api_version = "policy.networking.k8s.io/v1alpha2"
    return {"apiVersion": api_version, "kind": "ClusterNetworkPolicy", "metadata": {"name": name}, "spec": body}


def app(*names: str) -> Value:
    if len(names) == 1:
        return {"matchLabels": {"app": names[0]}}
    return {"matchExpressions": [{"key": "app", "operator": "In", "values": list(names)}]}


def other_ports(number: int, ips: Ips) -> list[Value]:
    """The probed port stands alone, in a range, in a list, or is any."""
    ports = ([{"port": PORT}], [{"port": PORT - 9, "endPort": PORT + 5}], [{"port": 80}, {"port": PORT}], None)
    rules = []
    for each in (ports[number % 4], [{"port": 8000 + number % 7}]):
        rules.append({"podSelector": app("client"), "ports": each})
    ingress = [{"from": [{"podSelector": rule["podSelector"]}], **_ports(rule["ports"])} for rule in rules]
    egress = [{"to": [{"podSelector": rule["podSelector"]}], **_ports(rule["ports"])} for rule in rules]
    return [network_policy("probes", SERVER, ingress=ingress, egress=egress)]


def _ports(ports: list[Value] | None) -> Value:
    return {} if ports is None else {"ports": ports}


def ip_blocks(number: int, ips: Ips) -> list[Value]:
    """Clients are peers by their labels, by their addresses, or by not being strangers. By the addresses of either
    family: a pod that a block has is its peer with all its addresses."""
    family = number // 3 % 2
    clients, strangers = (_blocks(role, family, ips) for role in ("client", "stranger"))
    peers: list[Value] = [
        [{"podSelector": app("client")}],
        [{"ipBlock": {"cidr": cidr}} for cidr in clients],
        [{"ipBlock": {"cidr": ip_range(family, ips), "except": strangers}}],
    ][number % 3]  # type: ignore[assignment]
    rule = {"ports": [{"port": PORT}]}
    return [network_policy("probes", SERVER, ingress=[{"from": peers, **rule}], egress=[{"to": peers, **rule}])]


def _blocks(role: str, family: int, ips: Ips) -> list[str]:
    """Of the addresses of all pods of that role."""
    return [str(ip_network(ips[name][family])) for name in sorted(ips) if name.startswith(role)]


def ip_range(family: int, ips: Ips) -> str:
    """What all pods are in."""
    (found,) = {ip_network(f"{each[family]}/{(8, 48)[family]}", strict=False) for each in ips.values()}
    return str(found)


def denies(number: int, ips: Ips) -> list[Value]:
    """Denied beside an allow of all, denied where all else is open, or not allowed."""
    stranger, port = [app("stranger")], {"toPorts": [{"ports": [{"port": str(PORT), "protocol": "TCP"}]}]}
    more = [app("stranger", f"nobody{number}")]
    specs: list[Value] = [
        {
            "ingress": [{"fromEndpoints": [{}]}],
            "ingressDeny": [{"fromEndpoints": stranger}],
            "egress": [{"toEndpoints": [{}]}],
            "egressDeny": [{"toEndpoints": stranger, **port}],
        },
        deny_list(more),
        {
            "ingress": [{"fromEndpoints": [app("client")], **port}],
            "egress": [{"toEndpoints": [app("client")]}],
        },
    ]
    return [cilium_policy("probes", SERVER, **specs[number % 3])]


def deny_list(peers: list[Value]) -> Value:
    return {
        "enableDefaultDeny": {"ingress": False, "egress": False},
        "ingressDeny": [{"fromEndpoints": peers}],
        "egressDeny": [{"toEndpoints": peers}],
    }


def priorities(number: int, ips: Ips) -> list[Value]:
    """Two policies that change places; in either order the same connections are denied."""

    def rules(direction: str, *actions: tuple[str, str]) -> list[Value]:
        peers = [{"pods": {"namespaceSelector": {}, "podSelector": app(name)}} for _, name in actions]
        return [{"action": action, direction: [peer]} for (action, _), peer in zip(actions, peers, strict=True)]

    first, second = (10, 20) if number % 2 else (30, 20)
    return [
        cluster_policy(
            "first",
            first + number % 5,
            ingress=rules("from", ("Accept", "client"), ("Deny", "stranger")),
            egress=rules("to", ("Deny", "stranger")),
        ),
        cluster_policy(
            "second",
            second + number % 5,
            ingress=rules("from", ("Deny", "stranger"), ("Pass", "client")),
            egress=rules("to", ("Pass", "client"), ("Deny", "stranger")),
        ),
    ]


def lists(allowing_on: str, denying_on: str) -> list[Value]:
    """One server opens to those that it names, the other closes to those that it names: an identity that a node does
    not know is cut off at the one, and let in at the other."""
    allowing = probe_policy()
    allowing["spec"]["podSelector"] = {"matchLabels": {"app": "server", "on": allowing_on}}
    denying = cilium_policy(
        "denies", {"matchLabels": {"app": "server", "on": denying_on}}, **deny_list([app("stranger")])
    )
    return [allowing, denying, namespace_manifest(NAMESPACE, {})]


def namespace_relabelled(number: int, ips: Ips) -> list[Value]:
    return [namespace_manifest(NAMESPACE, {"turn": str(number)})]


def pods_relabelled(number: int, ips: Ips) -> list[Value]:
    """One after the other, client, server and stranger; each time labels that nobody had."""
    role, node = sorted(product(ROLES, NODES))[number % 6]
    return [pod_object(f"{role}-{node}", {"app": role, "on": node, "turn": str(number)})]


def pod_object(name: str, labels: dict[str, str]) -> Value:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [{"name": "app"}]}}


def services(number: int, ips: Ips) -> list[Value]:
    """The servers are behind one service, or behind one for each node; no policy is touched."""
    together = {"app": "server"}
    apart = [{"app": "server", "on": node} for node in NODES]
    nobody = {"app": f"nobody{number}"}
    selectors = [together, nobody, nobody] if number % 2 else [nobody, *apart]
    return [service(f"servers{index}", selector) for index, selector in enumerate(selectors)]


def service(name: str, selector: dict[str, str]) -> Value:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {"of": "servers"}}
    spec = {"selector": selector, "ports": [{"port": PORT}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def clients_of_services(ips: Ips) -> list[Value]:
    """Clients reach the servers by their services alone."""
    chosen = {"k8sServiceSelector": {"selector": {"matchLabels": {"of": "servers"}}, "namespace": NAMESPACE}}
    return [
        *services(0, ips),
        probe_policy(),
        cilium_policy("clients", app("client"), egress=[{"toServices": [chosen]}]),
    ]


def closed_strangers(ips: Ips) -> list[Value]:
    return [network_policy("strangers", app("stranger"), ingress=[], egress=[])]


def comes_and_goes(number: int, ips: Ips) -> list[Value]:
    """Both versions deny what the strangers' own policy denies."""
    return [] if number % 2 else [probe_policy()]


VARIANTS = (
    Variant("other ports", lambda ips: other_ports(0, ips), other_ports),
    Variant("ipBlock", lambda ips: ip_blocks(0, ips), ip_blocks),
    Variant("denies", lambda ips: denies(0, ips), denies),
    Variant("priorities", lambda ips: priorities(0, ips), priorities),
    Variant("namespace relabelled", lambda ips: lists(*NODES), namespace_relabelled),
    Variant(
        "namespace relabelled, servers the other way round", lambda ips: lists(*reversed(NODES)), namespace_relabelled
    ),
    Variant("pods relabelled", lambda ips: lists(*NODES), pods_relabelled),
    Variant("services", clients_of_services, services),
    Variant("deleted and applied", closed_strangers, comes_and_goes),
)
