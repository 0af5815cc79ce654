"""What other nodes know a node by: identities that come and go with what policies name of nodes."""

from __future__ import annotations

import pytest

from kilim.controlplane.decide import node_identity
from kilim.controlplane.decide.command import (
    ApplyObjects,
    ChangeSetting,
    PreparePolicies,
    RegisterNode,
    ReleaseIdentities,
    WithdrawMemberships,
)
from kilim.controlplane.decide.decided import Decided
from kilim.controlplane.decide.node_identity import unneeded_node_identities
from kilim.controlplane.decide.phases import Before, before
from kilim.controlplane.decide.refusal import Code
from kilim.controlplane.expiry import unused_identities
from kilim.model.address import parse_ip
from kilim.model.desired import desired_tables
from kilim.model.identity import FIRST_NODE, REMOTE_NODE
from kilim.model.nouns import Policy
from kilim.model.resource import parse_manifest
from kilim.model.verdict import verdict
from tests.pure.controlplane.worlds import World, apply, delete, endpoint, policy

LABELS = "enable-node-selector-labels"
MODE = "policy-cidr-match-mode"
IPS = {f"node{number}": f"192.0.2.{number}" for number in (1, 2, 3)}
ZONES = {"node1": "a", "node2": "a", "node3": "b"}


def registration(name: str, zone: str) -> RegisterNode:
    return RegisterNode(name, IPS[name], (f"10.244.{name[-1]}.0/24",), (("zone", zone),))


@pytest.fixture
def world() -> World:
    world = World()
    for name, zone in ZONES.items():
        world.do(registration(name, zone))
    world.do(endpoint("db", "10.244.1.3", 1))
    return world


def to_nodes(name: str, **match: object) -> Policy:
    spec = {"endpointSelector": {}, "egress": [{"toNodes": [match]}]}
    return manifest("cilium.io/v2", "CiliumNetworkPolicy", name, spec)


def baseline(name: str, peer: dict[str, object]) -> Policy:
    egress = [{"action": "Accept", "to": [peer]}, {"action": "Deny", "to": [{"nodes": {}}]}]
    spec = {"tier": "Baseline", "priority": 1, "subject": {"namespaces": {}}, "egress": egress}
    return manifest("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", name, spec)


def manifest(version: str, kind: str, name: str, spec: dict[str, object]) -> Policy:
    metadata = {"name": name, **({"namespace": "shop"} if kind == "CiliumNetworkPolicy" else {})}
    noun = parse_manifest({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}).noun
    assert isinstance(noun, Policy)
    return noun


def labels_of(world: World) -> dict[str, list[str]]:
    """What the identity of each node says of it; nothing where it has none of its own."""
    found = {}
    for name, node in world.state.nodes.items():
        known = world.state.identities[node.identity].labels if node.identity else ()
        found[name] = [label for label in known if label != "reserved:remote-node"]
    return found


def reached(world: World) -> list[str]:
    """The nodes that shop/db, on node1, reaches."""
    tables, db = desired_tables(world.state, "node1"), parse_ip("10.244.1.3")
    return [name for name, ip in IPS.items() if verdict(tables, None, db, parse_ip(ip), 6, 80).allowed]


def test_a_node_has_no_identity_of_its_own_before_a_policy_asks_for_it(world: World) -> None:
    world.do(apply(policy("p", "10.244.0.0/16"), policy("q", "0.0.0.0/0")))
    assert labels_of(world) == {"node1": [], "node2": [], "node3": []}
    assert desired_tables(world.state, "node1").ipcache[(parse_ip(IPS["node2"]), 32)] == (REMOTE_NODE, 0)
    world.do(apply(to_nodes("p", matchLabels={"kubernetes.io/os": "linux"})))
    assert world.bodies == ["policy_replaced"]  # it holds for all nodes
    assert reached(world) == ["node2", "node3"]


def test_nodes_of_one_label_share_an_identity_that_comes_before_the_policy(world: World) -> None:
    world.do(apply(to_nodes("p", matchLabels={"zone": "b"})))
    told = ["identity_allocated", "node_updated", "node_updated", "identity_allocated", "node_updated"]
    assert world.bodies == [*told, "policy_replaced"]
    assert labels_of(world) == {"node1": ["node:zone=a"], "node2": ["node:zone=a"], "node3": ["node:zone=b"]}
    assert world.state.nodes["node1"].identity == world.state.nodes["node2"].identity == FIRST_NODE
    assert reached(world) == ["node3"]
    world.do(apply(to_nodes("q", matchExpressions=[{"key": "zone", "operator": "NotIn", "values": ["b"]}])))
    assert world.bodies == ["policy_replaced"] and reached(world) == ["node2", "node3"]
    world.do(delete("CiliumNetworkPolicy", "p", "shop"))
    assert world.bodies == ["policy_removed"] and reached(world) == ["node2"]
    world.do(delete("CiliumNetworkPolicy", "q", "shop"))
    assert world.bodies == ["policy_removed", *["node_updated"] * 3]
    assert labels_of(world) == {"node1": [], "node2": [], "node3": []}
    assert unused_identities(world.view)[-2:] == [FIRST_NODE, FIRST_NODE + 1]
    world.do(ReleaseIdentities((FIRST_NODE, FIRST_NODE + 1)))
    assert world.bodies == ["identity_released"] * 2


def test_labels_of_a_node_change_as_it_runs(world: World) -> None:
    world.do(apply(to_nodes("p", matchLabels={"zone": "b"})))
    world.do(registration("node2", "b"))
    assert world.bodies == ["node_updated"] and reached(world) == ["node2", "node3"]
    world.do(registration("node3", "c"))
    assert world.bodies == ["identity_allocated", "node_updated"] and reached(world) == ["node2"]
    world.do(ReleaseIdentities((FIRST_NODE, FIRST_NODE + 1, FIRST_NODE + 2)))
    assert world.bodies == []  # all are used
    world.do(delete("Node", "node3"))
    assert unused_identities(world.view) == [FIRST_NODE + 2]


def test_every_kind_of_policy_that_asks_for_labels_is_served(world: World) -> None:
    world.do(apply(baseline("p", {"nodes": {"matchLabels": {"zone": "a"}}})))
    assert reached(world) == ["node1", "node2"]
    world.do(apply(baseline("p", {"networks": ["192.0.2.3/32"]})))
    assert labels_of(world) == {"node1": [], "node2": [], "node3": ["cidr:192.0.2.3/32"]}
    assert reached(world) == ["node1", "node3"]
    world.do(apply(baseline("p", {"networks": ["0.0.0.0/0"]})))
    assert labels_of(world) == {"node1": [], "node2": [], "node3": []}
    assert reached(world) == ["node1", "node2", "node3"]


def test_cidrs_of_cilium_hold_nodes_under_its_setting_alone(world: World) -> None:
    spec = {"endpointSelector": {}, "egress": [{"toCIDRSet": [{"cidr": "192.0.2.0/24", "except": ["192.0.2.2/32"]}]}]}
    world.do(apply(manifest("cilium.io/v2", "CiliumNetworkPolicy", "p", spec)))
    assert labels_of(world) == {"node1": [], "node2": [], "node3": []} and reached(world) == []
    world.do(ChangeSetting(MODE, "nodes"))
    assert reached(world) == ["node3"]
    world.do(ChangeSetting(MODE, "none"))
    assert labels_of(world) == {"node1": [], "node2": [], "node3": []} and reached(world) == []


def test_no_block_holds_nodes_under_the_setting_that_says_so(world: World) -> None:
    spec = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}
    world.do(apply(manifest("networking.k8s.io/v1", "NetworkPolicy", "p", spec)))
    policy_there = world.state.policies["NetworkPolicy/default/p"]
    assert policy_there.cidrs_include_nodes and not policy_there.cidrs_exclude_pods
    world.do(ChangeSetting(MODE, "none"))
    policy_there = world.state.policies["NetworkPolicy/default/p"]
    assert policy_there.cidrs_exclude_pods and not policy_there.cidrs_include_nodes


def test_with_the_setting_every_label_counts(world: World) -> None:
    world.do(ChangeSetting(LABELS, "true"))
    assert len({node.identity for node in world.state.nodes.values()}) == 3
    assert labels_of(world)["node3"] == [
        "node:kubernetes.io/hostname=node3",
        "node:kubernetes.io/os=linux",
        "node:zone=b",
    ]
    assert unneeded_node_identities(world.view) == []
    world.do(apply(to_nodes("p", matchLabels={"zone": "b"})))
    assert world.bodies == ["policy_replaced"] and reached(world) == ["node3"]
    world.do(ChangeSetting(LABELS, ""))
    assert labels_of(world) == {"node1": ["node:zone=a"], "node2": ["node:zone=a"], "node3": ["node:zone=b"]}
    assert reached(world) == ["node3"]
    refusal = world.refusal(ChangeSetting(LABELS, "yes"))
    assert (refusal.code, refusal.message) == (Code.INVALID, f"setting {LABELS}: must be one of false, true")


def test_a_change_of_many_nodes_is_completed_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    command = apply(to_nodes("p", matchLabels={"zone": "b"}))
    outcome = world.decide(command)[0]
    assert isinstance(outcome, Decided) and outcome.preparations == len(outcome.events) - 1
    for events in range(1, len(outcome.events)):
        other = World()
        for name, zone in ZONES.items():
            other.do(registration(name, zone))
        other.happen(Decided(outcome.result, outcome.events[:events]))  # cut off
        assert unneeded_node_identities(other.view) or events == 1
        other.do(command)
        assert labels_of(other) == {"node1": ["node:zone=a"], "node2": ["node:zone=a"], "node3": ["node:zone=b"]}
    world.do(command)
    monkeypatch.setattr(node_identity, "AT_ONCE", 2)
    world.do(delete("CiliumNetworkPolicy", "p", "shop"))
    assert world.bodies == ["policy_removed", "node_updated"]
    assert unneeded_node_identities(world.view) == [FIRST_NODE, FIRST_NODE + 1]
    world.do(WithdrawMemberships(()))
    assert labels_of(world) == {"node1": [], "node2": [], "node3": []}
    assert unneeded_node_identities(world.view) == []


def test_nodes_know_an_identity_before_a_node_has_it(world: World) -> None:
    command = apply(to_nodes("p", matchLabels={"zone": "b"}))
    first = before(world.view, command).command
    assert first is not None
    world.do(first)
    assert world.bodies == ["identity_allocated"] * 2
    known = world.state.seq
    assert before(world.view, command) == Before(PreparePolicies(command.documents), known)
    assert isinstance(command, ApplyObjects)
    world.do(PreparePolicies(command.documents))
    assert world.bodies == ["node_updated"] * 3
    assert before(world.view, command).command is None
    world.do(command)
    assert world.bodies == ["policy_replaced"] and reached(world) == ["node3"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("kubernetes.io/os", "plan9", "node node1: labels: kubernetes.io/os must be linux: agents run on nothing else"),
        ("-", "a", "node node1: labels: "),
        ("a", "-", "node node1: labels"),
    ],
)
def test_bad_labels_of_a_node(world: World, key: str, value: str, message: str) -> None:
    refusal = world.refusal(RegisterNode("node1", IPS["node1"], ("10.244.1.0/24",), ((key, value),)))
    assert refusal.code is Code.INVALID and refusal.message.startswith(message)


def test_labels_that_every_node_has(world: World) -> None:
    labels = dict(world.state.nodes["node1"].labels)
    assert labels == {"kubernetes.io/hostname": "node1", "kubernetes.io/os": "linux", "zone": "a"}
    world.do(RegisterNode("node1", IPS["node1"], ("10.244.1.0/24",), (("kubernetes.io/hostname", "n"),)))
    assert dict(world.state.nodes["node1"].labels) == {"kubernetes.io/hostname": "n", "kubernetes.io/os": "linux"}
