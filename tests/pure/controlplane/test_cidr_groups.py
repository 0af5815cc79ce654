"""Groups of CIDRs through the decisions: which prefixes policies select as groups change, whole and step by step."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kilim.controlplane.decide.decided import Decided
from kilim.model.address import parse_ip
from kilim.model.desired import desired_tables
from kilim.model.node_tables import NodeTables
from kilim.model.nouns import Policy
from kilim.model.resource import parse_manifest
from kilim.model.verdict import verdict
from tests.pure.controlplane.worlds import World, apply, cidr_group, delete, endpoint, node

ADDRESSES = ("198.51.100.7", "198.51.200.7", "203.0.113.9", "192.0.3.1")


def cilium(name: str, **spec: Any) -> Policy:
    noun = parse_manifest(
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"endpointSelector": {}} | spec,
        }
    ).noun
    assert isinstance(noun, Policy)
    return noun


def by_name(name: str, *excepts: str) -> dict[str, object]:
    return {"cidrGroupRef": name, "except": list(excepts)}


def by_labels(**labels: str) -> dict[str, object]:
    return {"cidrGroupSelector": {"matchLabels": labels}}


def in_world() -> World:
    world = World()
    world.do(node())
    world.do(endpoint(ip="10.244.0.3"))
    return world


def reached(world: World) -> set[str]:
    tables = desired_tables(world.state, "node1")
    ours = parse_ip("10.244.0.3")
    return {each for each in ADDRESSES if verdict(tables, None, ours, parse_ip(each), 6, 80).allowed}


def test_a_policy_follows_the_group_that_it_names() -> None:
    world = in_world()
    world.do(apply(cilium("p", egress=[{"toCIDRSet": [by_name("partners")]}])))
    assert reached(world) == set()
    world.do(apply(cidr_group("partners", "198.51.100.0/24", "2001:db8::/32")))
    assert reached(world) == {"198.51.100.7"}
    assert world.bodies == ["identity_allocated", "identity_allocated", "policy_replaced"]
    world.do(apply(cidr_group("partners", "198.51.0.0/16", "203.0.113.9/32")))
    assert reached(world) == {"198.51.100.7", "198.51.200.7", "203.0.113.9"}
    world.do(apply(cidr_group("other", "192.0.3.0/24")))
    assert "192.0.3.1" not in reached(world)
    world.do(delete("CiliumCIDRGroup", "partners"))
    assert reached(world) == set()
    assert {str(each.cidr) for each in world.state.identities.values() if each.cidr} == {"192.0.3.0/24"}


def test_groups_by_their_labels_of_one_group_each() -> None:
    world = in_world()
    world.do(apply(cilium("p", egress=[{"toCIDRSet": [by_labels(site="east", kind="office")]}])))
    world.do(apply(cidr_group("a", "198.51.100.0/24", site="east"), cidr_group("b", "198.51.100.0/24", kind="office")))
    assert reached(world) == set()
    world.do(apply(cidr_group("c", "203.0.113.0/24", site="east", kind="office")))
    assert reached(world) == {"203.0.113.9"}
    world.do(apply(cidr_group("a", "198.51.100.0/24", site="east", kind="office")))
    assert reached(world) == {"198.51.100.7", "203.0.113.9"}
    world.do(apply(cilium("p", egress=[{"toCIDRSet": [by_labels()]}])))
    assert reached(world) == {"198.51.100.7", "203.0.113.9"}
    none = {"cidrGroupSelector": {"matchExpressions": [{"key": "site", "operator": "DoesNotExist"}]}}
    world.do(apply(cilium("p", egress=[{"toCIDRSet": [none]}])))
    assert reached(world) == {"198.51.100.7"}  # b has none


def test_except_cuts_out_of_a_group_and_longer_prefixes_stay_in() -> None:
    world = in_world()
    world.do(apply(cidr_group("g", "198.51.0.0/16")))
    world.do(apply(cilium("p", egress=[{"toCIDRSet": [by_name("g", "198.51.200.0/24")]}])))
    assert reached(world) == {"198.51.100.7"}
    world.do(apply(cilium("q", ingress=[{"fromCIDR": ["198.51.100.0/24"]}])))
    assert reached(world) == {"198.51.100.7"}
    deny = cilium("r", egress=[{"toEntities": ["all"]}], egressDeny=[{"toCIDRSet": [by_name("g")]}])
    world.do(apply(deny))
    assert reached(world) == {"203.0.113.9", "192.0.3.1"}


def test_the_same_group_again_is_unchanged() -> None:
    world = in_world()
    world.do(apply(cidr_group("g", "198.51.0.0/16", "203.0.113.9/32")))
    world.do(apply(cidr_group("g", "198.51.0.0/16", "203.0.113.9/32")))
    assert world.bodies == []


NAMES, PREFIXES = ("a", "b"), ("198.51.0.0/16", "198.51.100.0/24", "203.0.113.9/32", "0.0.0.0/0")
names, prefixes = st.sampled_from(NAMES), st.lists(st.sampled_from(PREFIXES), max_size=2, unique=True)
chosen = st.one_of(
    st.builds(by_name, names),
    st.builds(lambda name: by_name(name, "198.51.100.0/24"), names),
    st.builds(lambda value: by_labels(site=value), names),
    st.builds(lambda cidr: {"cidr": cidr}, st.sampled_from(PREFIXES)),
)
steps = st.one_of(
    st.builds(lambda n, cidrs, site: apply(cidr_group(n, *cidrs, site=site)), names, prefixes, names),
    st.builds(lambda n: delete("CiliumCIDRGroup", n, ignore_not_found=True), names),
    st.builds(lambda n, items: apply(cilium(n, egress=[{"toCIDRSet": items}])), names, st.lists(chosen, max_size=2)),
    st.builds(lambda n, item: apply(cilium(n, egressDeny=[{"toCIDRSet": [item]}])), names, chosen),
    st.builds(
        lambda n, item: apply(cilium(n, egressDeny=[{"toCIDRSet": [item]}], enableDefaultDeny={"egress": False})),
        names,
        chosen,
    ),
    st.builds(lambda n: delete("CiliumNetworkPolicy", n, "shop", ignore_not_found=True), names),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=12))
def test_step_by_step_is_as_at_once(history: list[Any]) -> None:
    world = in_world()
    tables = NodeTables("node1")
    tables.rebuild(world.state)
    for step in history:
        (outcome,) = world.decide(step)
        assert isinstance(outcome, Decided)
        for event in outcome.events:
            changes = world.view.fold(world.state.seq + 1, event.SerializeToString())
            tables.update(world.state, changes)
        assert tables.tables == desired_tables(world.state, "node1")
