"""What each field of a cilium.io policy selects, by the verdicts that come of it; expectations from Cilium's documents.

Namespace a (team=red) has web and db, b (team=blue) has web; db is on n1, the others on n2. `out1`, `out2` and,
of IPv6, `out6` are outside the cluster; n1 is the node of db, n2 another one.
"""

from ipaddress import IPv6Address
from typing import Any

import pytest

from kilim.model.desired import desired_tables
from kilim.model.nouns import NamedPort
from kilim.model.verdict import verdict
from tests.pure.model.cluster import Cluster

PODS = {
    "a/db": ("n1", "10.0.1.1", {"app": "db"}, "default"),
    "a/web": ("n2", "10.0.2.1", {"app": "web", "tier": "front"}, "default"),
    "b/web": ("n2", "10.0.2.2", {"app": "web"}, "bot"),
}
NODES = {"n1": "192.168.0.1", "n2": "192.168.0.2"}
OUTSIDE = {"out1": "198.51.100.7", "out2": "203.0.113.9", "out6": "2001:db8::7"}
OUT = set(OUTSIDE)
PORTS = {
    "tcp0": (6, 0),
    "tcp80": (6, 80),
    "tcp81": (6, 81),
    "tcp8080": (6, 8080),
    "tcp65535": (6, 65535),
    "udp80": (17, 80),
    "sctp80": (132, 80),
    "ping": (1, 8),
    "pong": (1, 0),
    "unreachable": (1, 3),
    "ping6": (58, 128),
    "toobig6": (58, 2),
}
EVERYBODY = {"a/web", "b/web", "out1", "out2", "out6", "n1", "n2"}
INSIDE = {"a/web", "b/web"}
HOST = {"n1"}  # a node reaches its pods where no policy denies it
DB = {"endpointSelector": {"matchLabels": {"app": "db"}}}


def number(text: str) -> int:
    if ":" in text:
        return 1 << 128 | int(IPv6Address(text))
    a, b, c, d = map(int, text.split("."))
    return a << 24 | b << 16 | c << 8 | d


def policy(kind: str = "CiliumNetworkPolicy", name: str = "p", **top: Any) -> dict[str, Any]:
    metadata = {"name": name} | ({"namespace": "a"} if kind == "CiliumNetworkPolicy" else {})
    return {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, **top}


class Net:
    def __init__(self, *policies: object) -> None:
        cluster = Cluster()
        for name, ip in NODES.items():
            cluster.node(name, ip)
        cluster.world_of_ipv6()
        cluster.namespace("a", {"team": "red"})
        cluster.namespace("b", {"team": "blue"})
        for key, (node, ip, labels, account) in PODS.items():
            ports = (NamedPort("web", 8080, 6),) if key == "a/db" else (NamedPort("web", 80, 6),)
            namespace, _, name = key.partition("/")
            cluster.pod(namespace, name, node, ip, labels, ports, account)
        for each in policies:
            cluster.apply(each)
        self.cluster = cluster
        self.make_tables()

    def make_tables(self) -> None:
        self._tables = {name: desired_tables(self.cluster.state, name) for name in NODES}

    def passes(self, source: str, destination: str, port: str = "tcp80") -> bool:
        (from_node, from_ip), (to_node, to_ip) = self._end(source), self._end(destination)
        tables = [self._tables.get(node) for node in (from_node, to_node)]
        return verdict(tables[0], tables[1], number(from_ip), number(to_ip), *PORTS[port]).allowed

    def senders_to(self, destination: str = "a/db", port: str = "tcp80") -> set[str]:
        return {each for each in EVERYBODY if self.passes(each, destination, port)}

    def receivers_of(self, source: str = "a/db", port: str = "tcp80") -> set[str]:
        return {each for each in EVERYBODY if self.passes(source, each, port)}

    def _end(self, name: str) -> tuple[str, str]:
        if name in PODS:
            return PODS[name][0], PODS[name][1]
        return "", NODES.get(name) or OUTSIDE[name]


def labels(**wanted: str) -> dict[str, Any]:
    return {"matchLabels": {key.replace("__", ":").replace("_", "."): value for key, value in wanted.items()}}


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, **({"values": list(values)} if values else {})}]}


NS = "io.kubernetes.pod.namespace"
TEAM = "io.cilium.k8s.namespace.labels.team"
PEERS: list[tuple[dict[str, Any], set[str], set[str]]] = [  # of a rule; in a namespaced and in a clusterwide policy
    ({"Endpoints": [{}]}, {"a/web"}, INSIDE),
    ({"Endpoints": [labels(app="web")]}, {"a/web"}, INSIDE),
    ({"Endpoints": [labels(k8s__app="web")]}, {"a/web"}, INSIDE),
    ({"Endpoints": [labels(any__app="web")]}, {"a/web"}, INSIDE),
    ({"Endpoints": [labels(app="db")]}, set(), set()),
    ({"Endpoints": [labels(container__app="web")]}, set(), set()),
    ({"Endpoints": [{"matchLabels": {NS: "b"}}]}, {"b/web"}, {"b/web"}),
    ({"Endpoints": [{"matchLabels": {f"k8s:{NS}": "b", "app": "web"}}]}, {"b/web"}, {"b/web"}),
    ({"Endpoints": [{"matchLabels": {NS: "b", "app": "db"}}]}, set(), set()),
    ({"Endpoints": [expression(NS, "In", "a", "b")]}, INSIDE, INSIDE),
    ({"Endpoints": [expression(NS, "Exists")]}, INSIDE, INSIDE),
    ({"Endpoints": [expression(NS, "NotIn", "b")]}, {"a/web"}, {"a/web"}),
    ({"Endpoints": [expression(NS, "DoesNotExist")]}, set(), set()),
    ({"Endpoints": [expression("app", "NotIn", "db")]}, {"a/web"}, INSIDE),
    ({"Endpoints": [expression("tier", "DoesNotExist")]}, set(), {"b/web"}),
    ({"Endpoints": [expression("tier", "Exists")]}, {"a/web"}, {"a/web"}),
    ({"Endpoints": [expression("app", "In", "web", "x")]}, {"a/web"}, INSIDE),
    ({"Endpoints": [{"matchLabels": {TEAM: "blue"}}]}, {"b/web"}, {"b/web"}),
    ({"Endpoints": [{"matchLabels": {f"k8s:{TEAM}": "red"}}]}, {"a/web"}, {"a/web"}),
    ({"Endpoints": [expression(TEAM, "NotIn", "red")]}, {"b/web"}, {"b/web"}),
    ({"Endpoints": [{"matchLabels": {"io.cilium.k8s.policy.serviceaccount": "bot"}}]}, set(), {"b/web"}),
    ({"Endpoints": [{"matchLabels": {"io.cilium.k8s.policy.serviceaccount": "bot", NS: "b"}}]}, {"b/web"}, {"b/web"}),
    ({"Endpoints": [{"matchLabels": {"io.cilium.k8s.policy.cluster": "default"}}]}, {"a/web"}, INSIDE),
    ({"Endpoints": [{"matchLabels": {"io.cilium.k8s.policy.cluster": "other"}}]}, set(), set()),
    ({"Endpoints": [labels(app="web"), {"matchLabels": {NS: "b"}}]}, INSIDE, INSIDE),
    ({"Endpoints": [labels(reserved__world="")]}, OUT, OUT),
    ({"Endpoints": [expression("reserved:remote-node", "Exists")]}, {"n2"}, {"n2"}),
    ({"Endpoints": []}, set(), set()),
    ({"Entities": ["all"]}, EVERYBODY, EVERYBODY),
    ({"Entities": ["world"]}, OUT, OUT),
    ({"Entities": ["world-ipv4"]}, {"out1", "out2"}, {"out1", "out2"}),
    ({"Entities": ["world-ipv6"]}, {"out6"}, {"out6"}),
    ({"Entities": ["world-ipv4", "world-ipv6"]}, OUT, OUT),
    ({"Entities": ["cluster"]}, INSIDE | {"n1", "n2"}, INSIDE | {"n1", "n2"}),
    ({"Entities": ["host"]}, HOST, HOST),
    ({"Entities": ["remote-node"]}, {"n2"}, {"n2"}),
    ({"Entities": ["remote-node", "world"]}, {"n2"} | OUT, {"n2"} | OUT),
    ({"Entities": ["none"]}, set(), set()),
    ({"Entities": ["kube-apiserver", "init", "health", "unmanaged", "ingress"]}, set(), set()),
    ({"Entities": []}, set(), set()),
    ({"CIDR": ["198.51.100.0/24"]}, {"out1"}, {"out1"}),
    ({"CIDR": ["198.51.100.7"]}, {"out1"}, {"out1"}),
    ({"CIDR": ["198.51.100.99/24", "203.0.113.9/32"]}, {"out1", "out2"}, {"out1", "out2"}),
    ({"CIDR": ["0.0.0.0/0"]}, {"out1", "out2"}, {"out1", "out2"}),
    ({"CIDR": ["10.0.0.0/8"]}, set(), set()),
    ({"CIDR": ["192.168.0.0/16"]}, set(), set()),
    ({"CIDR": ["2001:db8::/32"]}, {"out6"}, {"out6"}),
    ({"CIDR": ["2001:db8::7"]}, {"out6"}, {"out6"}),
    ({"CIDR": ["2001:db8::8/128", "fd00::/8"]}, set(), set()),
    ({"CIDR": ["::/0"]}, {"out6"}, {"out6"}),
    ({"CIDRSet": [{"cidr": "::/0", "except": ["2001:db8::/64"]}]}, set(), set()),
    ({"CIDRSet": [{"cidr": "2001::/16", "except": ["2001:db8:1::/48"]}]}, {"out6"}, {"out6"}),
    ({"CIDR": []}, set(), set()),
    ({"CIDRSet": [{"cidr": "0.0.0.0/0", "except": ["203.0.113.0/24"]}]}, {"out1"}, {"out1"}),
    ({"CIDRSet": [{"cidr": "0.0.0.0/0", "except": ["198.0.0.0/8", "203.0.113.9/32"]}]}, set(), set()),
    ({"CIDRSet": [{"cidr": "198.51.100.0/24"}, {"cidr": "203.0.113.9/32"}]}, {"out1", "out2"}, {"out1", "out2"}),
    ({"CIDRSet": [{"cidr": "203.0.113.0/24", "except": ["203.0.113.0/24"]}]}, set(), set()),
    ({"CIDRSet": [{"cidrGroupRef": "no-such-group"}]}, set(), set()),
    ({"CIDRSet": []}, set(), set()),
    ({}, set(), set()),
    ({"Endpoints": [], "Entities": ["world"]}, set(), set()),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"])
@pytest.mark.parametrize(("peers", "own", "everywhere"), PEERS)
def test_whom_a_rule_selects(kind: str, peers: dict[str, Any], own: set[str], everywhere: set[str]) -> None:
    expected = own if kind == "CiliumNetworkPolicy" else everywhere
    came = Net(policy(kind, spec=DB | {"ingress": [{f"from{key}": value for key, value in peers.items()}]}))
    assert (came.senders_to(), came.receivers_of()) == (expected | HOST, EVERYBODY)
    went = Net(policy(kind, spec=DB | {"egress": [{f"to{key}": value for key, value in peers.items()}]}))
    assert (went.receivers_of(), went.senders_to()) == (expected, EVERYBODY)
    kept = [{"fromEntities": ["all"]}]
    denied = [{f"from{key}": value for key, value in peers.items()}]
    deny = Net(policy(kind, spec=DB | {"ingress": kept, "ingressDeny": denied}))
    assert deny.senders_to() == EVERYBODY - (own if kind == "CiliumNetworkPolicy" else everywhere)


ANY_L4 = set(PORTS)
TCP = {each for each in PORTS if each.startswith("tcp")}
TCP_80 = {"port": "80", "protocol": "TCP"}
L4: list[tuple[dict[str, Any], set[str]]] = [
    ({"toPorts": [{"ports": [{"port": "80"}]}]}, {"tcp80", "udp80", "sctp80"}),
    ({"toPorts": [{"ports": [{"port": "80", "protocol": "ANY"}]}]}, {"tcp80", "udp80", "sctp80"}),
    ({"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}, {"tcp80"}),
    ({"toPorts": [{"ports": [{"port": "80", "protocol": "UDP"}]}]}, {"udp80"}),
    ({"toPorts": [{"ports": [{"port": "80", "protocol": "SCTP"}]}]}, {"sctp80"}),
    ({"toPorts": [{"ports": [{"port": "8", "protocol": "ICMP"}]}]}, {"ping"}),
    ({"toPorts": [{"ports": [{"port": "0", "protocol": "ICMP"}]}]}, {"ping", "pong", "unreachable"}),
    ({"toPorts": [{"ports": [{"port": "0", "protocol": "ICMPv6"}]}]}, {"ping6", "toobig6"}),
    ({"toPorts": [{"ports": [{"port": "0", "protocol": "TCP"}]}]}, TCP),
    ({"toPorts": [{"ports": [{"port": "0"}]}]}, TCP | {"udp80", "sctp80"}),
    ({"toPorts": [{"ports": [{"port": "80", "endPort": 8080, "protocol": "TCP"}]}]}, {"tcp80", "tcp81", "tcp8080"}),
    ({"toPorts": [{"ports": [{"port": "81", "endPort": 65535, "protocol": "TCP"}]}]}, TCP - {"tcp0", "tcp80"}),
    ({"toPorts": [{"ports": [{"port": "80", "endPort": 0, "protocol": "TCP"}]}]}, {"tcp80"}),
    ({"toPorts": [{"ports": [{"port": "web"}]}]}, {"tcp8080"}),
    ({"toPorts": [{"ports": [{"port": "WEB", "protocol": "TCP"}]}]}, {"tcp8080"}),
    ({"toPorts": [{"ports": [{"port": "web", "protocol": "UDP"}]}]}, set()),
    ({"toPorts": [{"ports": [{"port": "nobody"}]}]}, set()),
    ({"toPorts": [{"ports": [TCP_80, {"port": "80", "protocol": "UDP"}]}]}, {"tcp80", "udp80"}),
    ({"toPorts": [{"ports": [TCP_80]}, {"ports": [{"port": "81", "protocol": "TCP"}]}]}, {"tcp80", "tcp81"}),
    ({"toPorts": []}, ANY_L4),
    ({"toPorts": [{}]}, set()),
    ({"toPorts": [{"ports": []}]}, set()),
    ({"icmps": [{"fields": [{"type": 8}]}]}, {"ping"}),
    ({"icmps": [{"fields": [{"type": 8, "family": "IPv4"}]}]}, {"ping"}),
    ({"icmps": [{"fields": [{"type": "8"}]}]}, {"ping"}),
    ({"icmps": [{"fields": [{"type": "EchoRequest"}]}]}, {"ping"}),
    ({"icmps": [{"fields": [{"type": "Echo"}, {"type": "DestinationUnreachable"}]}]}, {"ping", "unreachable"}),
    ({"icmps": [{"fields": [{"type": 0}]}]}, {"pong"}),
    ({"icmps": [{"fields": [{"type": "EchoReply"}]}, {"fields": [{"type": 3}]}]}, {"pong", "unreachable"}),
    ({"icmps": [{"fields": [{"type": 128, "family": "IPv6"}]}]}, {"ping6"}),
    ({"icmps": [{"fields": [{"type": "PacketTooBig", "family": "IPv6"}, {"type": 8}]}]}, {"ping", "toobig6"}),
    ({"icmps": []}, ANY_L4),
    ({"icmps": [{}]}, set()),
    ({"toPorts": None, "icmps": None, "authentication": {"mode": "disabled"}}, ANY_L4),
]  # fmt: skip


@pytest.mark.parametrize("field", ["toGroups", "toServices"])
def test_an_empty_list_of_what_has_no_selectors_counts_as_absent(field: str) -> None:
    deny = [{field: [], "toPorts": [{"ports": [TCP_80]}]}]
    went = Net(policy(spec=DB | {"egress": [{"toEntities": ["all"]}], "egressDeny": deny}))
    assert {each for each in PORTS if went.passes("a/db", "a/web", each)} == ANY_L4 - {"tcp80"}


@pytest.mark.parametrize(("l4", "expected"), L4)
def test_what_a_rule_selects(l4: dict[str, Any], expected: set[str]) -> None:
    web = {"fromEndpoints": [labels(app="web")]}
    came = Net(policy(spec=DB | {"ingress": [web | l4]}))
    assert {each for each in PORTS if came.passes("a/web", "a/db", each)} == expected
    assert not any(came.passes("b/web", "a/db", each) for each in PORTS)
    anybody = Net(policy(spec=DB | {"ingress": [l4]}))
    unlimited = not (l4.get("toPorts") or l4.get("icmps"))
    expected_of_anybody = set() if unlimited else expected
    for sender in ("a/web", "b/web", "out1", "n2"):
        assert {each for each in PORTS if anybody.passes(sender, "a/db", each)} == expected_of_anybody
    if "authentication" not in l4:
        deny = Net(policy(spec=DB | {"ingress": [{"fromEntities": ["all"]}], "ingressDeny": [web | l4]}))
        assert {each for each in PORTS if deny.passes("a/web", "a/db", each)} == ANY_L4 - expected
        assert all(deny.passes("b/web", "a/db", each) for each in PORTS)


def test_empty_layer_7_fields_change_nothing() -> None:
    entry = {"ports": [TCP_80], "rules": {"http": None}, "serverNames": []}
    net = Net(policy(spec=DB | {"ingress": [{"toPorts": [entry]}]}))
    assert {each for each in PORTS if net.passes("a/web", "a/db", each)} == {"tcp80"}


def test_a_port_name_is_looked_up_at_the_receiver() -> None:
    rule = {"toEndpoints": [expression(NS, "Exists")], "toPorts": [{"ports": [{"port": "web"}]}]}
    net = Net(policy(spec={"endpointSelector": {}, "egress": [rule]}))
    assert net.receivers_of("a/db", "tcp80") == {"a/web", "b/web"}
    assert net.passes("a/web", "a/db", "tcp8080") and not net.passes("a/web", "a/db", "tcp80")


@pytest.mark.parametrize(
    ("spec", "closed_in", "closed_out"),
    [
        ({"ingress": []}, False, False),
        ({"ingress": [{}]}, True, False),
        ({"egress": [{}]}, False, True),
        ({"ingress": [{}], "egress": [{}]}, True, True),
        ({"ingressDeny": [{}]}, True, False),
        ({"egressDeny": [{}]}, False, True),
        ({"ingress": [], "egress": [], "ingressDeny": [], "egressDeny": []}, False, False),
        ({"ingress": [{}], "enableDefaultDeny": {}}, True, False),
        ({"ingress": [{}], "enableDefaultDeny": {"ingress": False}}, False, False),
        ({"ingress": [{}], "enableDefaultDeny": {"egress": True}}, True, True),
        ({"ingress": [], "enableDefaultDeny": {"ingress": True}}, True, False),
        ({"ingress": [{}], "enableDefaultDeny": {"ingress": None}}, True, False),
        ({"egress": [{}], "enableDefaultDeny": {"ingress": True, "egress": False}}, True, False),
    ],
)
def test_what_isolates(spec: dict[str, Any], closed_in: bool, closed_out: bool) -> None:
    net = Net(policy(spec=DB | spec))
    assert net.senders_to() == (HOST if closed_in else EVERYBODY)
    assert net.receivers_of() == (set() if closed_out else EVERYBODY)


OPEN = {"enableDefaultDeny": {"ingress": False, "egress": False}}


def test_without_isolation_denies_still_deny() -> None:
    denied = {"fromEndpoints": [{}], "toPorts": [{"ports": [{"port": "80"}]}]}
    spec = DB | OPEN | {"ingressDeny": [denied], "egressDeny": [{"toEntities": ["world"]}]}
    net = Net(policy(spec=spec))
    assert net.senders_to() == EVERYBODY - {"a/web"}
    assert net.senders_to(port="tcp81") == EVERYBODY
    assert net.receivers_of() == EVERYBODY - OUT
    both = Net(policy(spec=spec), policy(name="q", spec=DB | {"ingress": [{"fromEntities": ["cluster"]}]}))
    assert both.senders_to() == {"b/web", "n1", "n2"}
    assert both.senders_to(port="tcp81") == {"a/web", "b/web", "n1", "n2"}
    assert both.receivers_of() == EVERYBODY - OUT


def test_without_isolation_allows_add_to_what_others_allow() -> None:
    opening = policy(spec=DB | OPEN | {"ingress": [{"fromEndpoints": [{}]}]})
    assert Net(opening).senders_to() == EVERYBODY
    isolating = policy(name="q", spec=DB | {"ingress": [{"fromEntities": ["world"]}]})
    assert Net(opening, isolating).senders_to() == {"a/web", "n1"} | OUT


def test_deny_wins_over_every_allow() -> None:
    everybody = {"ingress": [{"fromEntities": ["all"]}]}
    deny_web = {"ingressDeny": [{"fromEndpoints": [labels(app="web")]}]}
    network_policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "k", "namespace": "a"},
        "spec": {"podSelector": {}, "ingress": [{}]},
    }
    clusterwide = policy("CiliumClusterwideNetworkPolicy", spec=DB | deny_web)
    assert Net(policy(spec=DB | everybody), clusterwide).senders_to() == EVERYBODY - INSIDE
    assert Net(network_policy, clusterwide).senders_to() == EVERYBODY - INSIDE
    assert Net(network_policy, policy(spec=DB | deny_web)).senders_to() == EVERYBODY - {"a/web"}
    narrow = {"ingress": [{"fromCIDR": ["198.51.100.7/32"]}], "ingressDeny": [{"fromCIDR": ["198.51.0.0/16"]}]}
    assert Net(policy(spec=DB | narrow)).senders_to() == HOST
    subset = {"ingress": [{"fromCIDR": ["0.0.0.0/0"]}], "ingressDeny": [{"fromCIDR": ["198.51.100.0/24"]}]}
    assert Net(policy(spec=DB | subset)).senders_to() == {"out2", "n1"}


SUBJECTS: list[tuple[str, dict[str, Any], set[str]]] = [
    ("CiliumNetworkPolicy", {}, {"a/db", "a/web"}),
    ("CiliumNetworkPolicy", labels(app="web"), {"a/web"}),
    ("CiliumNetworkPolicy", {"matchLabels": {f"k8s:{NS}": "b"}}, {"a/db", "a/web"}),
    ("CiliumNetworkPolicy", {"matchLabels": {NS: "b"}}, set()),
    ("CiliumNetworkPolicy", expression(TEAM, "In", "blue"), set()),
    ("CiliumNetworkPolicy", expression("app", "NotIn", "web"), {"a/db"}),
    ("CiliumClusterwideNetworkPolicy", {}, {"a/db", "a/web", "b/web"}),
    ("CiliumClusterwideNetworkPolicy", labels(k8s__app="web"), {"a/web", "b/web"}),
    ("CiliumClusterwideNetworkPolicy", {"matchLabels": {NS: "b"}}, {"b/web"}),
    ("CiliumClusterwideNetworkPolicy", expression(NS, "NotIn", "b"), {"a/db", "a/web"}),
    ("CiliumClusterwideNetworkPolicy", expression(TEAM, "In", "blue"), {"b/web"}),
    ("CiliumClusterwideNetworkPolicy", labels(reserved__health=""), set()),
]


@pytest.mark.parametrize(("kind", "selector", "expected"), SUBJECTS)
def test_subjects(kind: str, selector: dict[str, Any], expected: set[str]) -> None:
    net = Net(policy(kind, spec={"endpointSelector": selector, "ingress": [{}]}))
    assert {each for each in PODS if not net.passes("out1", each)} == expected


def test_spec_and_specs_are_policies_of_their_own() -> None:
    web = {"endpointSelector": labels(app="web"), "egress": [{}]}
    net = Net(policy(spec=DB | {"ingress": [{}]}, specs=[web, DB | {"ingress": [{"fromEntities": ["world"]}]}]))
    assert net.senders_to() == {"n1"} | OUT
    assert net.receivers_of("a/web") == {"a/web"}
    assert net.receivers_of() == EVERYBODY
    only = Net(policy(specs=[DB | {"ingress": [{}]}]))
    assert only.senders_to() == HOST
