"""Random CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy and CiliumCIDRGroup objects.

What Cilium's documentation leaves open is left out: several kinds of peers in one entry, and ICMP where a rule names
port 0 of any protocol.
"""

from random import Random
from typing import Any

from tests.pure.policy.selections import NODE_KEYS, POD_KEYS, block, selector
from tests.pure.policy.services import reference
from tests.pure.policy.worlds import CIDRS, NAMESPACES, PORT_NAMES, TEAMS, maybe, some

Value = dict[str, Any]

NAMESPACE = "io.kubernetes.pod.namespace"
KEYS = {
    **POD_KEYS,
    "k8s:app": POD_KEYS["app"],
    "any:tier": POD_KEYS["tier"],
    "io.cilium.k8s.policy.serviceaccount": ("default", "robot"),
    "k8s:io.cilium.k8s.policy.cluster": ("default", "elsewhere"),
}
PEER_KEYS = {
    **KEYS,
    NAMESPACE: NAMESPACES,
    "k8s:" + NAMESPACE: NAMESPACES,
    "io.cilium.k8s.namespace.labels.team": TEAMS,
    "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name": NAMESPACES,
}
CILIUM_NODE_KEYS: dict[str, tuple[str, ...]] = {
    **NODE_KEYS,
    "node:zone": ("a", "b"),
    "any:disk": ("ssd", "hdd"),
    "k8s:zone": ("a", "b"),
}
ENTITIES = (
    "all",
    "world",
    "world-ipv4",
    "world-ipv6",
    "cluster",
    "host",
    "remote-node",
    "health",
    "init",
    "none",
    "kube-apiserver",
    "kube-apiserver",
)
RESERVED = ("world", "kube-apiserver", "host", "remote-node", "health", "init", "ingress")
API_SERVERS = "reserved:kube-apiserver"  # enforced as a selector by itself, as the entity
GROUPS = ("g1", "g2")


def cilium_network_policy(random: Random, name: str) -> Value:
    keys = PEER_KEYS if maybe(random, 0.2) else KEYS
    return _policy(random, "CiliumNetworkPolicy", {"name": name, "namespace": random.choice(NAMESPACES)}, keys)


def clusterwide_policy(random: Random, name: str) -> Value:
    return _policy(random, "CiliumClusterwideNetworkPolicy", {"name": name}, PEER_KEYS)


def cidr_group(random: Random) -> Value:
    name = random.choice(GROUPS)
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumCIDRGroup",
        "metadata": {"name": name, "labels": {"group": name}},
        "spec": {"externalCIDRs": some(random, CIDRS)},
    }


def _policy(random: Random, kind: str, metadata: Value, keys: dict[str, tuple[str, ...]]) -> Value:
    policy: Value = {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata}
    if maybe(random, 0.2):
        policy["specs"] = [_rule(random, keys) for _ in range(2)]
    else:
        policy["spec"] = _rule(random, keys)
    return policy


def _rule(random: Random, keys: dict[str, tuple[str, ...]]) -> Value:
    """With a section at least: a rule without any is refused."""
    rule: Value = {"endpointSelector": selector(random, keys)}
    sections = random.sample(("ingress", "ingressDeny", "egress", "egressDeny"), random.randint(1, 3))
    for section in sections:
        deny = section.endswith("Deny")
        entries = [_entry(random, section[:2] == "in", deny) for _ in range(random.randint(1, 2))]
        rule[section] = entries
    if maybe(random, 0.3):
        directions = some(
            random, [each for each in ("ingress", "egress") if any(s.startswith(each) for s in sections)], 1
        )
        rule["enableDefaultDeny"] = {each: maybe(random, 0.4) for each in directions}
    return rule


def _entry(random: Random, ingress: bool, deny: bool) -> Value:
    word = "from" if ingress else "to"
    entry: Value = {}
    choices = ("endpoints", "endpoints", "entities", "api servers", "cidr", "set", "group", "nodes", "none", "nobody")
    match random.choice(choices if ingress else (*choices, "services", "services")):
        case "api servers":
            entry[word + "Entities"] = ["kube-apiserver"]
        case "services":
            entry["toServices"] = [reference(random) for _ in range(random.randint(1, 2))]
        case "endpoints":
            entry[word + "Endpoints"] = [_endpoints(random) for _ in range(random.randint(1, 2))]
        case "entities":
            entry[word + "Entities"] = some(random, ENTITIES)
        case "cidr":
            entry[word + "CIDR"] = some(random, CIDRS)
        case "set":
            entry[word + "CIDRSet"] = [block(random, CIDRS) for _ in range(random.randint(1, 2))]
        case "group":
            by_name = {"cidrGroupRef": random.choice(GROUPS)}
            by_label = {"cidrGroupSelector": {"matchLabels": {"group": random.choice(GROUPS)}}}
            entry[word + "CIDRSet"] = [by_name if maybe(random, 0.6) else by_label]
        case "nodes":
            entry[word + "Nodes"] = [selector(random, CILIUM_NODE_KEYS) for _ in range(random.randint(1, 2))]
        case "nobody":
            entry[word + "Endpoints"] = []
    if maybe(random, 0.2):
        types = {"IPv4": (8, 0, "EchoRequest", "8"), "IPv6": (128, 129, "EchoRequest", "128")}
        family = random.choice(tuple(types))
        entry["icmps"] = [{"fields": [{"type": random.choice(types[family]), "family": family}]}]
    elif maybe(random, 0.5):
        entry["toPorts"] = [
            {"ports": [_port(random) for _ in range(random.choice((0, 1, 1, 2, 2)))]}
            for _ in range(random.choice((1, 1, 2)))
        ]
    return entry


def _endpoints(random: Random) -> Value:
    if maybe(random, 0.9):
        return selector(random, PEER_KEYS)
    key = "reserved:" + random.choice(RESERVED)
    if maybe(random, 0.5):
        return {"matchLabels": {key: ""}}
    operators = ("Exists",) if key == API_SERVERS else ("Exists", "DoesNotExist")
    return {"matchExpressions": [{"key": key, "operator": random.choice(operators)}]}


def _port(random: Random) -> Value:
    port: Value = {}
    if maybe(random, 0.8):
        port["protocol"] = random.choice(("TCP", "UDP", "SCTP", "ANY"))
    if maybe(random, 0.2):
        return {**port, "port": random.choice(PORT_NAMES)}
    port["port"] = random.choice(("53", "80", "81", "8080", "0"))
    if port["port"] == "0" and port.get("protocol", "ANY") == "ANY":
        port["protocol"] = "TCP"
    elif port["port"] != "0" and maybe(random, 0.25):
        port["endPort"] = random.choice((8080, 10000, 65535))
    return port
