"""Random NetworkPolicy and ClusterNetworkPolicy objects: every field, alone and together."""

from random import Random
from typing import Any

from tests.pure.policy.selections import NODE_KEYS, block, namespace_selector, pod_selector, selector
from tests.pure.policy.worlds import CIDRS, NAMESPACES, PORT_NAMES, maybe, some

Value = dict[str, Any]


def network_policy(random: Random, name: str) -> Value:
    spec: Value = {"podSelector": pod_selector(random)}
    types = random.choice((None, None, [], ["Ingress"], ["Egress"], ["Ingress", "Egress"], ["Egress", "Ingress"]))
    if types is not None:
        spec["policyTypes"] = types
    for section, peers in (("ingress", "from"), ("egress", "to")):
        if maybe(random, 0.75):
            spec[section] = _rules(random, peers)
    metadata = {"name": name, "namespace": random.choice(NAMESPACES)}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def _rules(random: Random, peers_field: str) -> list[Value]:
    rules = []
    for _ in range(random.choice((0, 1, 1, 1, 2))):
        rule: Value = {}
        if maybe(random, 0.8):
            rule[peers_field] = [_peer(random) for _ in range(random.choice((0, 1, 1, 2)))]
        if maybe(random, 0.6):
            rule["ports"] = [_port(random) for _ in range(random.choice((0, 1, 1, 2, 3)))]
        rules.append(rule)
    return rules


def _peer(random: Random) -> Value:
    match random.choice(("pods", "namespaces", "both", "block", "block")):
        case "pods":
            return {"podSelector": pod_selector(random)}
        case "namespaces":
            return {"namespaceSelector": namespace_selector(random)}
        case "both":
            return {"podSelector": pod_selector(random), "namespaceSelector": namespace_selector(random)}
    return {"ipBlock": block(random)}


def _port(random: Random) -> Value:
    port: Value = {"protocol": random.choice(("TCP", "UDP", "SCTP"))} if maybe(random, 0.7) else {}
    match random.choice(("number", "number", "name", "range", "all")):
        case "number":
            port["port"] = random.choice((53, 80, 81, 8080))
        case "name":
            port["port"] = random.choice(PORT_NAMES)
        case "range":
            port["port"] = random.choice((1, 50, 80, 81))
            port["endPort"] = random.choice((81, 100, 8080, 65535))
    return port


def cluster_network_policy(random: Random, name: str, priority: int) -> Value:
    """Priorities are the caller's: what two policies of one priority mean together nobody says."""
    if maybe(random, 0.5):
        subject: Value = {"namespaces": namespace_selector(random)}
    else:
        subject = {"pods": _namespaced(random)}
    tier = random.choice(("Admin", "Admin", "Baseline"))
    spec: Value = {"tier": tier, "priority": priority, "subject": subject}
    for section, peers in (("ingress", "from"), ("egress", "to")):
        if maybe(random, 0.8):
            spec[section] = [_cluster_rule(random, peers) for _ in range(random.randint(1, 3))]
    kind = {"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy"}
    return {**kind, "metadata": {"name": name}, "spec": spec}


def _namespaced(random: Random) -> Value:
    return {"namespaceSelector": namespace_selector(random), "podSelector": pod_selector(random)}


def _cluster_rule(random: Random, peers_field: str) -> Value:
    peers = [_cluster_peer(random, peers_field) for _ in range(random.randint(1, 2))]
    rule: Value = {"action": random.choice(("Accept", "Deny", "Pass")), peers_field: peers}
    if maybe(random, 0.5):
        named = not any("networks" in peer or "nodes" in peer for peer in peers)
        rule["protocols"] = [_protocol(random, named) for _ in range(random.randint(1, 2))]
    return rule


def _cluster_peer(random: Random, peers_field: str) -> Value:
    choices = ("pods", "namespaces") if peers_field == "from" else ("pods", "namespaces", "networks", "nodes")
    match random.choice(choices):
        case "pods":
            return {"pods": _namespaced(random)}
        case "namespaces":
            return {"namespaces": namespace_selector(random)}
        case "nodes":
            return {"nodes": selector(random, NODE_KEYS)}
    return {"networks": some(random, CIDRS)}


def _protocol(random: Random, named: bool) -> Value:
    if named and maybe(random, 0.3):
        return {"destinationNamedPort": random.choice(PORT_NAMES)}
    if maybe(random, 0.3):
        port: Value = {"range": {"start": random.choice((1, 50, 80)), "end": random.choice((81, 100, 65535))}}
    else:
        port = {"number": random.choice((53, 80, 81, 8080))}
    return {random.choice(("tcp", "udp", "sctp")): {"destinationPort": port}}
