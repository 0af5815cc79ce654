"""Nodes and endpoints with addresses of one family, of the other, and of both."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kilim.controlplane.decide.command import ChangeSetting, NodeRegistered, RegisterEndpoint, RemoveEndpoint
from kilim.controlplane.decide.limits import Limits
from kilim.controlplane.decide.refusal import Code
from kilim.model.address import parse_cidr, parse_ip
from kilim.model.desired import desired_tables
from kilim.model.identity import membership_label
from tests.pure.controlplane.worlds import World, apply, endpoint, node, policy

NODE1, NODE2 = "2001:db8::1", "2001:db8::2"


def pod(name: str, ip: str, ipv6: str, number: int, on: str = "node1") -> RegisterEndpoint:
    return replace(endpoint(name, ip, number, on), ipv6=ipv6)


@pytest.fixture
def world() -> World:
    world = World()
    world.do(node("node1", "192.0.2.1", ipv6=NODE1))
    world.do(node("node2", "", ipv6=NODE2))
    world.do(node("node3", "192.0.2.3"))
    return world


def test_a_node_gets_pod_cidrs_of_the_families_it_has(world: World) -> None:
    cidrs = {name: each.pod_cidrs for name, each in world.state.nodes.items()}
    assert cidrs == {
        "node1": ("10.244.0.0/24", "fd00:10:244::/64"),
        "node2": ("fd00:10:244:1::/64",),
        "node3": ("10.244.1.0/24",),
    }
    assert world.state.nodes["node2"].ips == (parse_ip(NODE2),)
    assert world.view.node_at == {
        parse_ip("192.0.2.1"): "node1",
        parse_ip(NODE1): "node1",
        parse_ip(NODE2): "node2",
        parse_ip("192.0.2.3"): "node3",
    }


def test_what_is_given_of_one_family_leaves_the_other_to_the_pool() -> None:
    world = World()
    given = node("a", "192.0.2.1", "fd00:1::/64", "fd00:2:0:0::/64", ipv6=NODE1)
    assert world.do(given) == NodeRegistered(("fd00:1::/64", "fd00:2::/64", "10.244.0.0/24"))
    assert world.do(given) == NodeRegistered(("fd00:1::/64", "fd00:2::/64", "10.244.0.0/24"))
    assert world.bodies == []


def test_a_node_gains_and_loses_a_family(world: World) -> None:
    both = node("node3", "192.0.2.3", ipv6="2001:db8::3")
    assert world.do(both) == NodeRegistered(("10.244.1.0/24", "fd00:10:244:2::/64"))
    assert world.bodies == ["node_updated"]
    assert world.do(both) == NodeRegistered(("10.244.1.0/24", "fd00:10:244:2::/64"))
    assert world.bodies == []
    assert world.do(node("node3", "", ipv6="2001:db8::3")) == NodeRegistered(("fd00:10:244:2::/64",))
    assert parse_ip("192.0.2.3") not in world.view.node_at
    assert world.do(node("node4", "192.0.2.3")) == NodeRegistered(("10.244.1.0/24",))


def test_a_family_whose_addresses_pods_have_stays(world: World) -> None:
    world.do(pod("a", "10.244.0.3", "fd00:10:244::3", 1))
    refusal = world.refusal(node("node1", "192.0.2.1"))
    assert refusal.code is Code.CONFLICT
    assert refusal.message == "node node1: pod_cidrs: endpoint shop/a has fd00:10:244::3, which is in none of them"
    world.do(pod("a", "10.244.0.3", "", 1))
    assert world.do(node("node1", "192.0.2.1")) == NodeRegistered(("10.244.0.0/24",))


def test_another_address_of_a_node_changes_nothing_else(world: World) -> None:
    world.do(pod("a", "10.244.0.3", "fd00:10:244::3", 1))
    before = world.state.nodes["node1"]
    world.do(node("node1", "192.0.2.9", ipv6=NODE1))
    assert world.bodies == ["node_updated"]
    world.do(node("node1", "192.0.2.9", ipv6="2001:db8::9"))
    assert world.bodies == ["node_updated"]
    assert world.state.nodes["node1"] == replace(before, ip=parse_ip("192.0.2.9"), ipv6=parse_ip("2001:db8::9"))
    world.do(node("node5", "192.0.2.1", ipv6=NODE1))


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (node("b", ""), Code.INVALID, "node b: ip: an IPv4 address is needed here, or an IPv6 address in ipv6"),
        (node("b", "2001:db8::b"), Code.INVALID, "node b: ip: '2001:db8::b' is not an IPv4 address"),
        (node("b", "", ipv6="192.0.2.9"), Code.INVALID, "node b: ipv6: '192.0.2.9' is not an IPv6 address"),
        (node("b", "", ipv6="2001:db8::g"), Code.INVALID, "node b: ipv6: '2001:db8::g' is not an IPv6 address"),
        (node("b", "", ipv6="::ffff:192.0.2.9"), Code.INVALID, "node b: ipv6: '::ffff:192.0.2.9' is an IPv4 address"),
        (node("b", "", ipv6="2001:db8::9%eth0"), Code.INVALID, "node b: ipv6: '2001:db8::9%eth0' has a zone"),
        *(
            (node("b", "", ipv6=ip), Code.INVALID, f"node b: ipv6: {ip} is not an address that other nodes can reach")
            for ip in ("::", "::1", "fe80::1", "ff02::1")
        ),
        (node("b", "192.0.2.9", ipv6=NODE2), Code.CONFLICT, "node b: ipv6: 2001:db8::2 is the address of node node2"),
        (
            node("b", "192.0.2.9", "fd00:1::/64"),
            Code.INVALID,
            "node b: pod_cidrs[0]: fd00:1::/64 is an IPv6 CIDR, and the node has no IPv6 address",
        ),
        (
            node("b", "", "10.9.0.0/24", ipv6="2001:db8::9"),
            Code.INVALID,
            "node b: pod_cidrs[0]: 10.9.0.0/24 is an IPv4 CIDR, and the node has no IPv4 address",
        ),
        (
            node("b", "", "fd00:1::/31", ipv6="2001:db8::9"),
            Code.INVALID,
            "node b: pod_cidrs[0]: fd00:1::/31 has bits set behind its prefix, fd00::/31 is meant",
        ),
        (
            node("b", "", "fd00::/31", ipv6="2001:db8::9"),
            Code.INVALID,
            "node b: pod_cidrs[0]: fd00::/31 must have a prefix length from 32 to 126",
        ),
        (
            node("b", "", "fd00:1::/48", "fd00:1:0:7::/64", ipv6="2001:db8::9"),
            Code.INVALID,
            "node b: pod_cidrs[1]: fd00:1:0:7::/64 overlaps fd00:1::/48 of the same node",
        ),
        (
            node("b", "", "fd00:10:244::/56", ipv6="2001:db8::9"),
            Code.CONFLICT,
            "node b: pod_cidrs: fd00:10:244::/56 overlaps fd00:10:244::/64 of node node1",
        ),
        (
            node("b", "", "2001:db8::/64", ipv6="2001:db8::9"),
            Code.INVALID,
            "node b: pod_cidrs: 2001:db8::/64 contains the node's own address 2001:db8::9",
        ),
        (
            node("b", "", "2001:db8::/64", ipv6="2001:db9::9"),
            Code.CONFLICT,
            "node b: pod_cidrs: 2001:db8::/64 contains 2001:db8::1, the address of node node1",
        ),
        (
            node("b", "", ipv6="fd00:10:244::7"),
            Code.CONFLICT,
            "node b: ipv6: fd00:10:244::7 is in fd00:10:244::/64, a pod CIDR of node node1",
        ),
        *(
            (
                node("b", "", cidr, ipv6="2001:db8::9"),
                Code.INVALID,
                f"node b: pod_cidrs[0]: {cidr} has addresses that no pod can have",
            )
            for cidr in ("::/64", "fe80::/64", "fe80::/32", "ff02::/64")
        ),
    ],
)
def test_nodes_that_are_refused(world: World, command: object, code: Code, words: str) -> None:
    refusal = world.refusal(command)  # type: ignore[arg-type]
    assert (refusal.code, "\n" in refusal.message) == (code, False)
    assert refusal.message.startswith(words)


def test_pools_are_settings_that_fit_each_other() -> None:
    world = World()
    too_small = ChangeSetting("cluster-pool-ipv6-cidr", "fd00:9::/100")
    rule = "setting cluster-pool-ipv6-cidr: fd00:9::/100 must hold at least one /{}, the pod CIDR of one node"
    assert world.refusal(too_small).message == rule.format(64)
    world.do(ChangeSetting("cluster-pool-ipv6-mask-size", "120"))
    world.do(too_small)
    assert world.refusal(ChangeSetting("cluster-pool-ipv6-mask-size", "99")).message == rule.format(99)
    assert world.refusal(ChangeSetting("cluster-pool-ipv6-mask-size", "")).message == rule.format(64)
    assert world.do(node("a", "192.0.2.1", ipv6=NODE1)) == NodeRegistered(("10.244.0.0/24", "fd00:9::/120"))
    assert world.do(node("b", "192.0.2.2", ipv6=NODE2)) == NodeRegistered(("10.244.1.0/24", "fd00:9::100/120"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cluster-pool-ipv6-cidr", "10.0.0.0/8", "cluster-pool-ipv6-cidr: '10.0.0.0/8' is not an IPv6 CIDR"),
        ("cluster-pool-ipv4-cidr", "fd00::/48", "cluster-pool-ipv4-cidr: 'fd00::/48' is not an IPv4 CIDR"),
        (
            "cluster-pool-ipv6-cidr",
            "fd00::",
            "cluster-pool-ipv6-cidr: 'fd00::' is not an IPv6 CIDR such as 2001:db8::/32",
        ),
        ("cluster-pool-ipv4-cidr", "0.0.0.0/0", "cluster-pool-ipv4-cidr: 0.0.0.0/0 has addresses that no pod can have"),
        ("cluster-pool-ipv6-cidr", "ff00::/16", "cluster-pool-ipv6-cidr: ff00::/16 has addresses that no pod can have"),
        ("cluster-pool-ipv4-mask-size", "31", "cluster-pool-ipv4-mask-size: 31 must be from 8 to 30"),
        ("cluster-pool-ipv6-mask-size", "24", "cluster-pool-ipv6-mask-size: 24 must be from 32 to 126"),
        ("cluster-pool-ipv6-mask-size", "-1", "cluster-pool-ipv6-mask-size: '-1' is not a number"),
    ],
)
def test_pools_that_are_refused(name: str, value: str, message: str) -> None:
    assert World().refusal(ChangeSetting(name, value)).message == f"setting {message}"


def test_a_pool_that_is_used_up() -> None:
    world = World()
    world.do(ChangeSetting("cluster-pool-ipv6-cidr", "fd00:9::/63"))
    for name, ipv6 in (("a", NODE1), ("b", NODE2)):
        world.do(node(name, "", ipv6=ipv6))
    refusal = world.refusal(node("c", "", ipv6="2001:db8::3"))
    assert (refusal.code, refusal.message) == (
        Code.EXHAUSTED,
        "cluster-pool-ipv6-cidr fd00:9::/63 has no free /64 left",
    )


@pytest.mark.parametrize(
    ("command", "ips"),
    [
        (pod("a", "10.244.0.3", "", 1), ("10.244.0.3",)),
        (pod("a", "", "fd00:10:244::3", 1), ("fd00:10:244::3",)),
        (pod("a", "10.244.0.3", "fd00:10:244:0:0:0:0:3", 1), ("10.244.0.3", "fd00:10:244::3")),
    ],
)
def test_endpoints_of_each_family(world: World, command: RegisterEndpoint, ips: tuple[str, ...]) -> None:
    world.do(command)
    assert world.state.endpoints["shop/a"].ips == tuple(map(parse_ip, ips))
    assert world.view.endpoint_at == {parse_ip(ip): "shop/a" for ip in ips}
    world.do(command)
    assert world.bodies == []
    world.do(RemoveEndpoint("node1", "shop", "a"))
    assert (world.view.endpoint_at, world.view.addresses_on) == ({}, {})


def test_an_endpoint_gains_and_loses_a_family(world: World) -> None:
    world.do(pod("a", "10.244.0.3", "", 1))
    world.do(pod("a", "10.244.0.3", "fd00:10:244::3", 1))
    assert world.bodies == ["endpoint_updated"]
    world.do(pod("a", "", "fd00:10:244::3", 1))
    assert world.bodies == ["identity_allocated", "endpoint_updated"], "a label says that it has IPv6 alone"
    world.do(pod("b", "10.244.0.3", "", 2))


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (pod("x", "", "", 9), Code.INVALID, "ip: an IPv4 address is needed here, or an IPv6 address in ipv6"),
        (pod("x", "10.244.0.9", "10.244.0.9", 9), Code.INVALID, "ipv6: '10.244.0.9' is not an IPv6 address"),
        (
            pod("x", "10.244.0.9", "fd00:10:244:1::9", 9),
            Code.INVALID,
            "ipv6: fd00:10:244:1::9 must be in a pod CIDR of node node1 (fd00:10:244::/64)",
        ),
        (
            pod("x", "10.244.1.9", "fd00:10:244:1::9", 9, "node3"),
            Code.INVALID,
            "ipv6: fd00:10:244:1::9 must be in a pod CIDR of node node3 (it has none of IPv6)",
        ),
        (
            pod("x", "10.244.0.9", "fd00:10:244::3", 9),
            Code.CONFLICT,
            "ipv6: fd00:10:244::3 belongs to endpoint shop/a",
        ),
    ],
)
def test_endpoints_that_are_refused(world: World, command: RegisterEndpoint, code: Code, words: str) -> None:
    world.do(pod("a", "10.244.0.3", "fd00:10:244::3", 1))
    refusal = world.refusal(command)
    assert (refusal.code, refusal.message) == (code, f"endpoint shop/x: {words}")


def test_every_address_is_a_row() -> None:
    world = World(limits=Limits(endpoints=3, ipcache=7))
    world.do(node("node1", "192.0.2.1", ipv6=NODE1))
    world.do(node("node2", "192.0.2.2"))
    world.do(pod("a", "10.244.0.3", "fd00:10:244::3", 1))
    refusal = world.refusal(pod("b", "10.244.0.4", "fd00:10:244::4", 2))
    assert refusal.message == "table endpoints of node node1 holds 3 rows, 4 would be needed"
    world.do(pod("b", "10.244.0.4", "", 2))
    refusal = world.refusal(pod("b", "10.244.0.4", "fd00:10:244::4", 2))
    assert refusal.message == "table endpoints of node node1 holds 3 rows, 4 would be needed"
    assert world.view.addresses_on == {"node1": 3}
    world.do(pod("c", "10.244.1.3", "", 1, "node2"))
    refusal = world.refusal(node("node2", "192.0.2.2", ipv6=NODE2))
    assert refusal.message == "table ipcache of every node holds 7 rows, 8 would be needed"
    world.do(pod("a", "10.244.0.3", "fd00:10:244::5", 1))


def test_a_pod_is_in_a_prefix_by_either_address(world: World) -> None:
    world.do(pod("a", "10.244.0.3", "fd00:10:244::3", 1))
    world.do(apply(policy("p", "10.244.0.0/16", "fd00:10:244::/60", "fd00:11::/32")))
    labels = world.state.identities[world.state.endpoints["shop/a"].identity].labels
    inside = {membership_label(parse_cidr(cidr)) for cidr in ("10.244.0.0/16", "fd00:10:244::/60")}
    assert {label for label in labels if label.startswith("cidr:")} == inside
    world.do(pod("a", "10.244.0.3", "", 1))
    labels = world.state.identities[world.state.endpoints["shop/a"].identity].labels
    assert [label for label in labels if label.startswith("cidr:")] == ["cidr:10.244.0.0/16"]


def test_a_node_is_in_a_prefix_by_either_address(world: World) -> None:
    world.do(apply(policy("p", "2001:db8::1/128", "192.0.2.3/32")))
    inside = "2001:db8::1/128", "192.0.2.3/32"
    for name, cidr in zip(("node1", "node3"), inside, strict=True):
        assert membership_label(parse_cidr(cidr)) in world.state.identities[world.state.nodes[name].identity].labels
    assert not world.state.nodes["node2"].identity
    world.do(node("node1", "192.0.2.1", ipv6="2001:db8::9"))
    assert world.bodies == ["node_updated"] and not world.state.nodes["node1"].identity
    world.do(node("node2", "", ipv6="2001:db8::1"))
    assert world.bodies == ["node_updated"] and world.state.nodes["node2"].identity


def test_as_many_rows_as_capacity_counts(world: World) -> None:
    """Rows of reserved prefixes (the world) are there besides."""
    world.do(pod("a", "10.244.0.3", "fd00:10:244::3", 1))
    world.do(pod("b", "", "fd00:10:244::4", 2))
    world.do(apply(policy("p", "2001:db8:1::/48", "198.51.100.0/24")))
    rows = desired_tables(world.state, "node1").ipcache
    view = world.view
    assert sum(prefix_len > 0 for _, prefix_len in rows) == (
        len(view.endpoint_at) + len(view.node_at) + view.cidr_numbers.taken
    )
    assert len(desired_tables(world.state, "node1").endpoints) == view.addresses_on["node1"] == 3
