"""Random clusters for differential tests: small, so that names, labels, addresses and ports collide often."""

from random import Random
from typing import Any

Value = dict[str, Any]

NAMESPACES = ("x", "y", "z")
POD_NAMES = ("a", "b", "c")
ZONES = {"node1": {"zone": "a"}, "node2": {"zone": "b", "disk": "ssd"}, "node3": {"zone": "a", "disk": "hdd"}}
POD_NETS = {"IPv4": "10.61.{}.{}", "IPv6": "fd00:61:{}::{:x}"}
POD_CIDRS = {"IPv4": "10.61.{}.0/24", "IPv6": "fd00:61:{}::/64"}
FAMILIES = (("IPv4", "IPv6"), ("IPv4", "IPv6"), ("IPv4",), ("IPv6",))  # of a cluster
NODES = tuple(ZONES)  # on the last there are no pods
EXTERNALS = {
    "one": {"IPv4": "198.51.100.10", "IPv6": "2001:db8:100::a"},
    "two": {"IPv4": "198.51.101.20", "IPv6": "2001:db8:101::14"},
    "three": {"IPv4": "203.0.113.5", "IPv6": "2001:db8:113::5"},
}
APPS, TIERS, TEAMS = ("web", "db", "cache"), ("front", "back"), ("red", "blue")
PORTS = (("TCP", 80), ("TCP", 81), ("TCP", 8080), ("UDP", 53), ("UDP", 80), ("SCTP", 80))
PORT_NAMES = ("http", "metrics", "dns")
CIDRS = (
    "0.0.0.0/0", "10.0.0.0/8", "10.61.0.0/16", "10.61.1.0/24", "10.61.2.0/24", "10.61.1.0/29", "10.61.1.4/32",
    "10.61.2.3/32", "10.61.2.0/30", "192.168.60.0/24", "192.168.60.102/32", "198.51.0.0/16", "198.51.100.0/24",
    "198.51.100.10/32", "198.51.101.16/28", "203.0.113.0/24",
    "::/0", "fc00::/7", "fd00:61::/32", "fd00:61:1::/64", "fd00:61:2::/64", "fd00:61:1::/125", "fd00:61:1::4/128",
    "fd00:61:2::3/128", "fd00:61:2::/126", "fd00:60::/64", "fd00:60::66/128", "2001:db8::/32", "2001:db8:100::/40",
    "2001:db8:100::/64", "2001:db8:100::a/128", "2001:db8:101::10/124", "2001:db8:113::/64",
)  # fmt: skip


def some(random: Random, items: Any, most: int = 2) -> list[Any]:
    """One to `most` of them."""
    return random.sample(list(items), random.randint(1, most))


def maybe(random: Random, chance: float) -> bool:
    return random.random() < chance


def pod_labels(random: Random) -> dict[str, str]:
    labels = {"app": random.choice(APPS)}
    if maybe(random, 0.6):
        labels["tier"] = random.choice(TIERS)
    return labels


def namespace_labels(random: Random) -> dict[str, str]:
    return {"team": random.choice(TEAMS)} if maybe(random, 0.8) else {}


def pod_ports(random: Random) -> list[Value]:
    """All that probes ask for is served; a name stands for another port of another protocol from pod to pod."""
    names = list(PORT_NAMES)
    random.shuffle(names)
    ports = [{"port": port, "protocol": protocol} for protocol, port in PORTS]
    for port in random.sample(ports, random.randint(0, len(names))):
        port["name"] = names.pop()
    return ports


def cluster(random: Random, families: tuple[str, ...] = ()) -> Value:
    """A scenario without steps. Which addresses there are is the same everywhere, as far as there are the families:
    CIDRS is about them."""
    families = families or random.choice(FAMILIES)
    pods = []
    numbers = {"node1": 1, "node2": 1}
    for namespace in NAMESPACES[: random.randint(2, 3)]:
        for name in POD_NAMES[: random.randint(1, 3)]:
            node = random.choice(("node1", "node2"))
            numbers[node] += 1
            pods.append(
                {
                    "namespace": namespace,
                    "name": name,
                    "node": node,
                    "ips": [POD_NETS[family].format(node[-1], numbers[node]) for family in families],
                    "labels": pod_labels(random),
                    "serviceAccount": random.choice(("default", "robot")),
                    "ports": pod_ports(random),
                }
            )
    return {
        "kind": "Scenario",
        "ipFamilies": list(families),
        "nodes": [
            {"name": name, "podCIDRs": [POD_CIDRS[family].format(name[-1]) for family in families], "labels": labels}
            for name, labels in ZONES.items()
        ],
        "namespaces": [{"name": name, "labels": namespace_labels(random)} for name in NAMESPACES],
        "pods": pods,
        "externals": [
            {"name": name, "ips": [ips[family] for family in families], "ports": _all_ports()}
            for name, ips in EXTERNALS.items()
        ],
    }


def _all_ports() -> list[Value]:
    return [{"port": port, "protocol": protocol} for protocol, port in PORTS]


def probe(random: Random, places: list[str], families: list[str]) -> Value:
    """One end at least is a pod."""
    protocol, port = random.choice((*PORTS, ("ICMP", 8), ("ICMP", 8)))
    source = random.choice(places)
    others = [f"ext:{name}" for name in EXTERNALS] + [f"node:{name}" for name in NODES]
    target = random.choice(others) if maybe(random, 0.3) else random.choice(places)
    ends = [source, target]
    if maybe(random, 0.5):
        ends.reverse()
    over = {"ipFamily": random.choice(families)}
    return {"from": ends[0], "to": ends[1], "port": port, "protocol": protocol, **over}


def relabelled(random: Random, document: Value) -> Value:
    """The Pod object of one of the pods, or a Namespace object, with other labels."""
    if maybe(random, 0.4):
        metadata = {"name": random.choice(NAMESPACES), "labels": namespace_labels(random)}
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    pod = random.choice(document["pods"])
    ports = [{"containerPort": p["port"], **{k: p[k] for k in ("protocol", "name") if k in p}} for p in pod["ports"]]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": pod["namespace"], "name": pod["name"], "labels": pod_labels(random)},
        "spec": {"serviceAccountName": pod["serviceAccount"], "containers": [{"name": "c", "ports": ports}]},
    }
