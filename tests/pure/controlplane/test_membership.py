"""Pods in the CIDRs that policies name, and named ports that differ: which identity an endpoint gets, and when."""

from __future__ import annotations

import pytest

from kilim.controlplane.decide import membership
from kilim.controlplane.decide.command import ChangeSetting, Command, WithdrawMemberships
from kilim.controlplane.decide.decided import Decided
from kilim.controlplane.decide.membership import unneeded_prefixes
from kilim.controlplane.decide.refusal import Code
from kilim.model.address import parse_cidr, parse_ip
from kilim.model.desired import desired_tables
from kilim.model.nouns import NamedPort, Namespace, Pod
from kilim.model.resource import parse_manifest
from kilim.model.verdict import verdict
from tests.pure.controlplane.worlds import World, apply, delete, endpoint, node, policy, two_nodes

MODE = "policy-cidr-match-mode"
BLOCK, INNER = "10.244.0.0/24", "10.244.0.4/31"


@pytest.fixture
def world() -> World:
    return two_nodes(
        endpoint("a", "10.244.0.3", 1), endpoint("b", "10.244.0.4", 2), endpoint("c", "10.244.1.3", 1, "node2")
    )


def members(world: World) -> dict[str, list[str]]:
    """The prefixes that each endpoint's identity says it lies in."""
    found = {}
    for key, each in world.state.endpoints.items():
        labels = world.state.identities[each.identity].labels
        found[key] = [label[5:] for label in labels if label.startswith("cidr:")]
    return found


def cut_off(world: World, command: Command, events: int) -> None:
    """Only the first events of the command reach the log."""
    outcome = world.decide(command)[0]
    assert isinstance(outcome, Decided) and len(outcome.events) > events
    world.happen(Decided(outcome.result, outcome.events[:events]))


def test_pods_are_labelled_before_the_policy_and_unlabelled_after_it(world: World) -> None:
    world.do(apply(policy("p", BLOCK, excepts=(INNER,))))
    labelled = ["identity_allocated", "endpoint_updated"]
    assert world.bodies == [*labelled, *labelled, "identity_allocated", "identity_allocated", "policy_replaced"]
    assert members(world) == {"shop/a": [BLOCK], "shop/b": [BLOCK, INNER], "shop/c": []}
    world.do(apply(policy("q", BLOCK)))
    assert world.bodies == ["policy_replaced"]
    world.do(apply(policy("p", BLOCK)))
    assert world.bodies == ["policy_replaced", "identity_released", "endpoint_updated"]
    assert members(world) == {"shop/a": [BLOCK], "shop/b": [BLOCK], "shop/c": []}
    world.do(delete("NetworkPolicy", "p", "shop"))
    assert world.bodies == ["policy_removed"]
    world.do(delete("NetworkPolicy", "q", "shop"))
    assert world.bodies == ["policy_removed", "identity_released", "endpoint_updated", "endpoint_updated"]
    assert members(world) == {"shop/a": [], "shop/b": [], "shop/c": []}
    assert len({each.identity for each in world.state.endpoints.values()}) == 1


def test_a_new_pod_is_a_member_from_the_start_and_by_its_address_now(world: World) -> None:
    world.do(apply(policy("p", BLOCK), policy("q", "10.244.0.0/16"), policy("r", "10.244.1.9/32")))
    world.do(endpoint("d", "10.244.0.9", 9))
    assert world.bodies == ["endpoint_added"]
    assert members(world)["shop/d"] == ["10.244.0.0/16", BLOCK]
    world.do(endpoint("d", "10.244.1.9", 9, "node2"))
    assert members(world)["shop/d"] == ["10.244.0.0/16", "10.244.1.9/32"]


def test_the_block_of_all_addresses_is_no_label(world: World) -> None:
    world.do(apply(policy("p", "0.0.0.0/0")))
    assert world.bodies == ["identity_allocated", "policy_replaced"]
    world.do(apply(policy("p", "0.0.0.0/0", excepts=(BLOCK,))))
    assert members(world) == {"shop/a": [BLOCK], "shop/b": [BLOCK], "shop/c": []}


def test_labels_of_namespace_and_pod_may_change_in_the_same_command(world: World) -> None:
    outcome = world.decide(apply(Namespace("shop", (("team", "x"),)), Pod("shop", "a"), policy("p", BLOCK)))[0]
    assert isinstance(outcome, Decided)
    assert outcome.preparations == 3  # an identity for two endpoints; the rest says what it always said
    bodies = [event.WhichOneof("body") for event in outcome.events]
    assert bodies[:3] == ["identity_allocated", "endpoint_updated", "endpoint_updated"]
    assert bodies[3:].count("endpoint_updated") == 3
    world.happen(outcome)
    assert members(world) == {"shop/a": [BLOCK], "shop/b": [BLOCK], "shop/c": []}
    for each in world.state.endpoints.values():
        labels = world.state.identities[each.identity].labels
        assert "k8s:io.cilium.k8s.namespace.labels.team=x" in labels


def test_what_was_cut_off_is_completed_by_the_same_command(world: World) -> None:
    command = apply(policy("p", "10.244.0.0/16"))
    for events in (1, 2, 3, 4):
        again = World()
        for each in (
            node(),
            node("node2", "192.0.2.2"),
            endpoint("a", "10.244.0.3", 1),
            endpoint("b", "10.244.0.4", 2),
        ):
            again.do(each)
        cut_off(again, command, events)
        again.do(endpoint("late", "10.244.0.7", 7))
        assert members(again)["shop/late"] == []
        again.do(command)
        assert again.bodies[-1] == "policy_replaced"
        assert set(map(tuple, members(again).values())) == {("10.244.0.0/16",)}
        again.do(command)
        assert again.bodies == []


def test_many_labels_go_bit_by_bit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "AT_ONCE", 3)
    world.do(apply(policy("p", "10.244.0.0/16")))
    assert unneeded_prefixes(world.view) == []
    world.do(delete("NetworkPolicy", "p", "shop"))
    assert world.bodies == ["policy_removed", "identity_released", "endpoint_updated"]
    prefix = parse_cidr("10.244.0.0/16")
    assert unneeded_prefixes(world.view) == [prefix]
    world.do(WithdrawMemberships((prefix,)))
    assert world.bodies == ["endpoint_updated", "endpoint_updated"]
    assert unneeded_prefixes(world.view) == []
    assert not any(members(world).values())
    world.do(apply(policy("p", "10.244.0.0/16")))
    world.do(WithdrawMemberships((prefix,)))
    assert world.bodies == []


def test_under_the_setting_of_cilium_no_block_selects_pods(world: World) -> None:
    world.do(apply(policy("p", BLOCK), policy("all", "0.0.0.0/0"), policy("none")))
    world.do(ChangeSetting(MODE, "none"))
    assert world.bodies == [*["policy_replaced"] * 2, *["endpoint_updated"] * 2, "setting_changed"]
    assert not any(members(world).values())
    excluded = {each.name: each.cidrs_exclude_pods for each in world.state.policies.values()}
    assert excluded == {"p": True, "all": True, "none": False}
    world.do(apply(policy("p", BLOCK)))
    assert world.bodies == []
    world.do(apply(policy("q", INNER)))
    assert world.bodies == ["identity_allocated", "policy_replaced"]
    for events in (1, 4, 5):
        cut_off(world, ChangeSetting(MODE, ""), events)
        world.do(ChangeSetting(MODE, "pods"))
        assert members(world) == {"shop/a": [BLOCK], "shop/b": [BLOCK, INNER], "shop/c": []}
        assert not any(each.cidrs_exclude_pods for each in world.state.policies.values())
        world.do(ChangeSetting(MODE, "none"))
        assert not any(members(world).values())
    refusal = world.refusal(ChangeSetting(MODE, "all"))
    assert (refusal.code, refusal.message) == (Code.INVALID, f"setting {MODE}: must be one of pods, none, nodes")


def test_too_few_identities_leave_everything_as_it_was(world: World) -> None:
    world.view.local_numbers.last = 256
    refusal = world.refusal(apply(Namespace("x"), policy("p", BLOCK)))
    assert refusal.code is Code.EXHAUSTED
    assert refusal.message.startswith("t.yaml: document 2: NetworkPolicy shop/p: identities 256-256 are all in use")


HTTP, OTHER = (NamedPort("http", 80, 6),), (NamedPort("http", 8080, 6),)


def test_endpoints_of_one_identity_offer_the_same_named_ports(world: World) -> None:
    def identity(name: str) -> int:
        return world.state.endpoints[f"shop/{name}"].identity

    for name in "abc":
        world.do(apply(Pod("shop", name, (("app", "web"),), "", HTTP)))
    assert identity("a") == identity("b") == identity("c")
    world.do(apply(Pod("shop", "b", (("app", "web"),), "", OTHER)))
    split = identity("b")
    assert split != identity("a") == identity("c")
    assert "kilim:named-ports=http:8080/6" in world.state.identities[split].labels
    world.do(apply(Pod("shop", "c", (("app", "web"),), "", OTHER)))
    assert identity("c") == split
    world.do(apply(Pod("shop", "b", (("app", "web"),), "", HTTP)))
    assert identity("b") == identity("a") != identity("c")
    world.do(apply(Pod("shop", "b", (("app", "web"),), "", ())))
    assert "kilim:named-ports=" in world.state.identities[identity("b")].labels
    assert len({identity(name) for name in "abc"}) == 3


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_named_port_is_each_pods_own(world: World, direction: str) -> None:
    """Of two pods with the same labels, one has http at 80, the other at 8080."""
    for name, ports in (("a", HTTP), ("c", OTHER)):
        world.do(apply(Pod("shop", name, (("app", "web"),), "", ports)))
    spec = {"podSelector": {}, "policyTypes": [direction.title()], direction: [{"ports": [{"port": "http"}]}]}
    metadata = {"name": "named", "namespace": "shop"}
    manifest = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
    world.do(apply(parse_manifest(manifest).noun))
    tables = {name: desired_tables(world.state, name) for name in ("node1", "node2")}
    allowed = set()
    for target, home in (("10.244.0.3", "node1"), ("10.244.1.3", "node2")):
        for port in (80, 8080):
            ips = parse_ip("10.244.0.4"), parse_ip(target)
            if verdict(tables["node1"], tables[home], *ips, 6, port).allowed:
                allowed.add((target, port))
    assert allowed == {("10.244.0.3", 80), ("10.244.1.3", 8080)}
