"""Services and slices through the decisions: policies that refer to them change as if they had been replaced."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilim.controlplane.decide.command import ApplyObjects, Object, ObjectsChanged
from kilim.controlplane.decide.decided import Decided
from kilim.controlplane.decide.limits import Limits
from kilim.controlplane.decide.phases import before
from kilim.controlplane.decide.refusal import Code
from kilim.controlplane.decide.view import Defaults, View
from kilim.model.address import parse_ip
from kilim.model.desired import desired_tables
from kilim.model.identity import FIRST_CIDR, FIRST_NODE
from kilim.model.node_tables import NodeTables
from kilim.model.nouns import EndpointSlice, Policy, Service
from kilim.model.resource import parse_manifest
from kilim.model.verdict import verdict
from tests.pure.controlplane.worlds import World, apply, delete, endpoint, look_ups, node

DB, WEB = "10.244.0.3", "10.244.1.3"
OUTSIDE = ("198.51.100.7", "198.51.100.8", "203.0.113.9")
NODES = {"node1": "192.0.2.1", "node2": "192.0.2.2", "node3": "192.0.2.3"}
EVERYBODY = (WEB, *OUTSIDE, *NODES.values())


def noun(version: str, kind: str, name: str, namespace: str = "shop", **body: Any) -> Any:
    metadata = {"name": name, "namespace": namespace, "labels": body.pop("labels", {})}
    return parse_manifest({"apiVersion": version, "kind": kind, "metadata": metadata, **body}).noun


def service(name: str, selector: dict[str, str] | None = None, **labels: str) -> Service:
    spec = {"ports": [{"port": 80}], "selector": selector}
    return noun("v1", "Service", name, spec=spec, labels=labels)  # type: ignore[no-any-return]


def part(name: str, of: str, *ips: str, namespace: str = "shop", ready: bool = True) -> EndpointSlice:
    endpoints = [{"addresses": [ip], "conditions": {"ready": ready}} for ip in ips]
    labels = {"kubernetes.io/service-name": of}
    body = {"addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 80}]}
    return noun("discovery.k8s.io/v1", "EndpointSlice", name, namespace, labels=labels, **body)  # type: ignore[no-any-return]


def api_servers(*ips: str) -> EndpointSlice:
    return part("kubernetes", "kubernetes", *ips, namespace="default")


def cilium(name: str, **rule: Any) -> Policy:
    spec = {"endpointSelector": {"matchLabels": {"app": "db"}}, "egress": [rule]}
    return noun("cilium.io/v2", "CiliumNetworkPolicy", name, spec=spec)  # type: ignore[no-any-return]


def to_service(name: str, of: str = "s") -> Policy:
    return cilium(name, toServices=[{"k8sService": {"serviceName": of, "namespace": "shop"}}])


TO_API_SERVERS = cilium("api", toEntities=["kube-apiserver"])
TO_LABELLED = cilium("labelled", toServices=[{"k8sServiceSelector": {"selector": {"matchLabels": {"tier": "ext"}}}}])


@pytest.fixture
def world() -> World:
    return in_world()


def in_world(limits: Limits | None = None) -> World:
    world = World(limits=limits)
    for number, (name, ip) in enumerate(NODES.items()):
        world.do(node(name, ip, f"10.244.{number}.0/24"))
    world.do(endpoint("db", DB, 1, app="db"))
    world.do(endpoint("web", WEB, 1, "node2", app="web"))
    return world


def reached(world: World) -> list[str]:
    """By shop/db, on node1."""
    tables = desired_tables(world.state, "node1")
    return [each for each in EVERYBODY if verdict(tables, None, parse_ip(DB), parse_ip(each), 6, 80).allowed]


def phases(world: World, command: ApplyObjects) -> list[list[str]]:
    done = []
    while (first := before(world.view, command).command) is not None:
        world.do(first)
        done.append(world.bodies)
    world.do(command)
    return [*done, world.bodies]


def test_created_configured_unchanged_deleted(world: World) -> None:
    for kind, one, other in (
        ("Service", service("s", {"app": "web"}), service("s")),
        ("EndpointSlice", part("s-1", "s"), part("s-1", "s", OUTSIDE[0])),
    ):
        noun_name = "service" if kind == "Service" else "endpoint_slice"
        for wanted, action in ((one, "created"), (one, "unchanged"), (other, "configured")):
            result = world.do(apply(wanted))
            assert isinstance(result, ObjectsChanged)
            assert [(each.kind, each.name, each.action) for each in result.results] == [(kind, wanted.name, action)]
            assert world.bodies == ([] if action == "unchanged" else [f"{noun_name}_replaced"])
        world.do(delete(kind, one.name, "shop"))
        assert world.bodies == [f"{noun_name}_removed"]
        assert world.refusal(delete(kind, one.name, "shop")).code is Code.NOT_FOUND


def test_where_no_policy_refers_to_it_a_service_costs_nothing(world: World) -> None:
    assert phases(world, apply(service("s"), part("s-1", "s", *OUTSIDE, *NODES.values()))) == [
        ["service_replaced", "endpoint_slice_replaced"]
    ]


def test_identities_of_addresses_come_with_them_and_go_after_them(world: World) -> None:
    world.do(apply(service("s"), to_service("p")))
    assert world.bodies == ["service_replaced", "policy_replaced"] and reached(world) == []
    world.do(apply(part("s-1", "s", OUTSIDE[0], OUTSIDE[1])))
    assert world.bodies == ["identity_allocated"] * 2 + ["endpoint_slice_replaced"]
    assert reached(world) == list(OUTSIDE[:2])
    world.do(apply(part("s-1", "s", OUTSIDE[1], OUTSIDE[2])))
    assert world.bodies == ["identity_allocated", "endpoint_slice_replaced", "identity_released"]
    assert reached(world) == list(OUTSIDE[1:])
    world.do(apply(to_service("q")))
    assert world.bodies == ["policy_replaced"]
    world.do(delete("CiliumNetworkPolicy", "p", "shop"))
    assert world.bodies == ["policy_removed"]
    world.do(delete("Service", "s", "shop"))
    assert world.bodies == ["service_removed"] + ["identity_released"] * 2 and reached(world) == []
    world.do(apply(service("s")))
    assert world.bodies == ["identity_allocated"] * 2 + ["service_replaced"] and reached(world) == list(OUTSIDE[1:])
    world.do(apply(service("s", {"app": "web"})))
    assert world.bodies == ["service_replaced"] + ["identity_released"] * 2 and reached(world) == [WEB]
    assert not [each for each in world.state.identities if each >= FIRST_CIDR]


def test_an_address_that_another_policy_names_keeps_its_identity(world: World) -> None:
    world.do(apply(service("s"), part("s-1", "s", OUTSIDE[0]), to_service("p")))
    world.do(apply(cilium("c", toCIDR=[f"{OUTSIDE[0]}/32"])))
    assert world.bodies == ["policy_replaced"]
    world.do(delete("EndpointSlice", "s-1", "shop"))
    assert world.bodies == ["endpoint_slice_removed"] and reached(world) == [OUTSIDE[0]]


def test_endpoints_that_do_not_serve_do_not_count(world: World) -> None:
    world.do(apply(service("s"), to_service("p"), part("s-1", "s", OUTSIDE[0], ready=False)))
    assert reached(world) == []
    world.do(apply(part("s-1", "s", OUTSIDE[0])))
    assert reached(world) == [OUTSIDE[0]]


def test_by_label_a_service_is_one_as_long_as_it_has_it(world: World) -> None:
    world.do(apply(TO_LABELLED, part("s-1", "s", OUTSIDE[0])))
    assert world.bodies == ["policy_replaced", "endpoint_slice_replaced"] and reached(world) == []
    world.do(apply(service("s", tier="ext")))
    assert world.bodies == ["identity_allocated", "service_replaced"] and reached(world) == [OUTSIDE[0]]
    world.do(apply(service("s", tier="int")))
    assert world.bodies == ["service_replaced", "identity_released"] and reached(world) == []


def test_nodes_are_told_apart_before_a_slice_names_one_and_no_more_after(world: World) -> None:
    world.do(apply(TO_API_SERVERS))
    assert reached(world) == []
    assert phases(world, apply(api_servers(NODES["node2"], OUTSIDE[0]))) == [
        ["identity_allocated"],
        ["node_updated"],
        ["identity_allocated", "identity_allocated", "endpoint_slice_replaced"],
    ]
    assert reached(world) == [OUTSIDE[0], NODES["node2"]]
    assert world.state.nodes["node2"].identity == FIRST_NODE and not world.state.nodes["node3"].identity
    world.do(apply(api_servers(NODES["node3"])))
    assert reached(world) == [NODES["node3"]]
    assert not world.state.nodes["node2"].identity
    world.do(delete("EndpointSlice", "kubernetes", "default"))
    assert reached(world) == [] and not any(each.identity for each in world.state.nodes.values())


def test_a_node_that_joins_on_such_an_address_is_told_apart_at_once(world: World) -> None:
    world.do(delete("Node", "node3"))
    world.do(apply(TO_API_SERVERS, api_servers(NODES["node3"])))
    world.do(node("node3", NODES["node3"], "10.244.2.0/24"))
    assert world.bodies == ["identity_allocated", "node_joined"] and reached(world) == [NODES["node3"]]


def test_a_thousand_endpoints_are_one_slice(world: World) -> None:
    world.do(apply(service("s"), to_service("p")))
    many = [f"198.51.{number // 250}.{number % 250 + 1}" for number in range(1000)]
    world.do(apply(part("s-1", "s", *many)))
    assert world.bodies == ["identity_allocated"] * 1000 + ["endpoint_slice_replaced"]
    world.do(delete("EndpointSlice", "s-1", "shop"))
    assert world.bodies == ["endpoint_slice_removed"] + ["identity_released"] * 1000


@pytest.mark.parametrize("slice_first", [True, False])
def test_a_policy_and_its_slice_may_come_in_one_command(world: World, slice_first: bool) -> None:
    objects: list[Object] = [api_servers(NODES["node2"]), TO_API_SERVERS]
    found = phases(world, apply(*(objects if slice_first else objects[::-1])))
    assert found[:2] == [["identity_allocated"], ["node_updated"]]
    assert "node_updated" not in found[2] and len(found) == 3
    assert reached(world) == [NODES["node2"]]


def test_a_slice_that_a_policy_refers_to_counts_as_a_change_of_that_policy(world: World) -> None:
    world.do(apply(service("s"), to_service("p")))
    seq = world.view.policies_seq
    world.do(apply(part("t-1", "t", OUTSIDE[0])))
    assert world.view.policies_seq == seq
    world.do(apply(part("s-1", "s", OUTSIDE[0])))
    assert world.view.policies_seq == world.state.seq > seq


def test_a_slice_that_no_table_could_hold_is_refused(world: World) -> None:
    world = in_world(Limits(policy=8))
    world.do(apply(service("s"), to_service("p")))
    many = [f"198.51.100.{number}" for number in range(1, 20)]
    refusal = world.refusal(apply(part("s-1", "s", *many)))
    assert refusal.code is Code.EXHAUSTED
    assert refusal.message.startswith("table policy of node node1 holds 8 rows")
    world.do(apply(part("s-1", "s", *many[:3])))


_objects: st.SearchStrategy[Object] = st.one_of(
    st.builds(
        service,
        st.sampled_from(("s", "t")),
        st.sampled_from((None, None, {"app": "web"}, {"app": "none"})),
        tier=st.sampled_from(("ext", "int")),
    ),
    st.builds(
        lambda name, of, ips, ready: part(name, of, *ips, ready=ready),
        st.sampled_from(("s-1", "s-2")),
        st.sampled_from(("s", "t", "none")),
        st.lists(st.sampled_from((*OUTSIDE, WEB, *NODES.values())), max_size=3),
        st.booleans(),
    ),
    st.lists(st.sampled_from((*OUTSIDE, *NODES.values())), max_size=3).map(lambda ips: api_servers(*ips)),
    st.sampled_from((to_service("p"), to_service("p", "t"), TO_LABELLED, TO_API_SERVERS)),
    st.sampled_from((cilium("c", toCIDR=["198.51.100.7/32"]), cilium("c", toEntities=["world"]))),
)
_deletions = st.sampled_from(
    (
        *((kind, name, "shop") for kind, name in (("Service", "s"), ("Service", "t"), ("EndpointSlice", "s-1"))),
        *(("CiliumNetworkPolicy", name, "shop") for name in ("p", "labelled", "api", "c")),
        ("EndpointSlice", "kubernetes", "default"),
    )
)
_commands = st.one_of(
    st.lists(_objects, min_size=1, max_size=3).map(lambda objects: apply(*objects)),
    st.lists(_objects, min_size=1, max_size=3).map(lambda objects: apply(*objects)),
    _deletions.map(lambda ref: delete(*ref)),
)


@given(st.lists(_commands, max_size=8))
@settings(deadline=None)
def test_step_by_step_is_as_from_the_start(commands: list[Any]) -> None:
    """Look-ups, tables of a node, identities of CIDRs and of nodes: whatever came, as if it had all been so at once."""
    world, tables = in_world(), NodeTables("node1")
    tables.rebuild(world.state)
    for command in commands:
        outcome = world.decide(command)[0]
        if not isinstance(outcome, Decided):
            continue
        for event in outcome.events:
            changes = world.view.fold(world.state.seq + 1, event.SerializeToString())
            tables.update(world.state, changes)
        assert tables.tables == desired_tables(world.state, "node1")
        assert look_ups(world.view) == look_ups(View(world.state, Defaults()))
        cidrs = {each.cidr for each in world.state.identities.values() if each.id >= FIRST_CIDR and each.cidr}
        assert cidrs == set(world.view.cidr_uses)
        told = {cidr.ip for cidr, _ in world.view.node_terms.prefixes.items()}
        assert {each.ip for each in world.state.nodes.values() if each.identity} == told & set(
            map(parse_ip, NODES.values())
        )
