"""Registering and removing nodes: CIDRs given or allocated, what clashes, what repeats."""

from __future__ import annotations

import pytest

from kilim.controlplane.decide.command import ChangeSetting, NodeRegistered
from kilim.controlplane.decide.refusal import Code
from kilim.model.address import parse_ip
from kilim.v1 import events_pb2 as pb
from tests.pure.controlplane.worlds import World, delete, endpoint, node


def test_takes_the_next_free_part_of_the_pool_and_keeps_it() -> None:
    world = World()
    assert world.do(node("a", "192.0.2.1")) == NodeRegistered(("10.244.0.0/24",))
    assert world.do(node("b", "192.0.2.2", "10.244.1.0/25", "10.244.3.0/24")) == NodeRegistered(
        ("10.244.1.0/25", "10.244.3.0/24")
    )
    assert world.do(node("c", "192.0.2.3")) == NodeRegistered(("10.244.2.0/24",))
    assert world.do(node("d", "192.0.2.4")) == NodeRegistered(("10.244.4.0/24",))
    assert world.do(node("c", "192.0.2.3")) == NodeRegistered(("10.244.2.0/24",))
    assert world.bodies == []


def test_a_part_that_a_node_gave_back_is_given_again() -> None:
    world = World()
    world.do(node("a", "192.0.2.1"))
    world.do(node("b", "192.0.2.2"))
    world.do(delete("Node", "a"))
    assert world.do(node("c", "192.0.2.3")) == NodeRegistered(("10.244.0.0/24",))


def test_does_not_give_what_holds_a_node_address() -> None:
    world = World("192.0.2.0/23")
    world.do(node("a", "192.0.2.1", "10.1.0.0/24"))
    assert world.do(node("b", "198.51.100.2")) == NodeRegistered(("192.0.3.0/24",))
    refusal = world.refusal(node("c", "198.51.100.3"))
    assert refusal.code is Code.EXHAUSTED
    assert "192.0.2.0/23 has no free /24" in refusal.message


def test_the_setting_comes_before_the_flag() -> None:
    world = World()
    world.do(ChangeSetting("cluster-pool-ipv4-cidr", "10.9.0.0/20"))
    assert world.do(node("a", "192.0.2.1")) == NodeRegistered(("10.9.0.0/24",))
    world.do(ChangeSetting("cluster-pool-ipv4-cidr", ""))
    assert world.do(node("b", "192.0.2.2")) == NodeRegistered(("10.244.0.0/24",))


def test_the_same_again_is_no_event_and_a_change_is_one() -> None:
    world = World()
    world.do(node("a", "192.0.2.1", "10.1.0.0/24"))
    assert world.bodies == ["node_joined"]
    world.do(node("a", "192.0.2.1", "10.1.0.0/24"))
    assert world.bodies == []
    world.do(node("a", "192.0.2.9", "10.1.0.0/24"))
    assert world.bodies == ["node_updated"]
    world.do(node("b", "192.0.2.1", "10.2.0.0/24"))


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (node("B_ad", "192.0.2.2"), Code.INVALID, "node: name: "),
        (node("", "192.0.2.2"), Code.INVALID, "node: name: "),
        (node("b", "192.0.2"), Code.INVALID, "node b: ip: '192.0.2' is not an IPv4 address"),
        (node("b", "127.0.0.1"), Code.INVALID, "other nodes can reach"),
        (node("b", "0.0.0.0"), Code.INVALID, "other nodes can reach"),
        (node("b", "224.0.0.1"), Code.INVALID, "other nodes can reach"),
        (node("b", "192.0.2.1"), Code.CONFLICT, "is the address of node a"),
        (node("b", "192.0.2.2", "10.2.0.0"), Code.INVALID, "pod_cidrs[0]: '10.2.0.0' is not an IPv4 CIDR"),
        (node("b", "192.0.2.2", "10.2.0.0/24", "10.2.0.1/24"), Code.INVALID, "pod_cidrs[1]: 10.2.0.1/24 has bits set"),
        (node("b", "192.0.2.2", "10.2.0.0/31"), Code.INVALID, "prefix length"),
        (node("b", "192.0.2.2", "10.2.0.0/23", "10.2.1.0/24"), Code.INVALID, "of the same node"),
        (node("b", "192.0.2.2", "10.1.0.0/25"), Code.CONFLICT, "10.1.0.0/25 overlaps 10.1.0.0/24 of node a"),
        (node("b", "192.0.2.2", "10.0.0.0/8"), Code.CONFLICT, "10.0.0.0/8 overlaps 10.1.0.0/24 of node a"),
        (node("b", "192.0.2.2", "192.0.2.0/24"), Code.INVALID, "contains the node's own address"),
        (node("b", "198.51.100.2", "192.0.2.0/25"), Code.CONFLICT, "192.0.2.0/25 contains 192.0.2.1, the address of"),
        (node("b", "10.1.0.7"), Code.CONFLICT, "10.1.0.7 is in 10.1.0.0/24, a pod CIDR of node a"),
        (node("b", "192.0.2.2", "127.1.0.0/24"), Code.INVALID, "127.1.0.0/24 has addresses that no pod can have"),
        (node("b", "192.0.2.2", "240.1.0.0/24"), Code.INVALID, "240.1.0.0/24 has addresses that no pod can have"),
    ],
)
def test_refused(command: object, code: Code, words: str) -> None:
    world = World()
    world.do(node("a", "192.0.2.1", "10.1.0.0/24"))
    refusal = world.refusal(command)  # type: ignore[arg-type]
    assert refusal.code is code
    assert words in refusal.message
    assert "\n" not in refusal.message


def test_what_clashes_since_long_ago_stays() -> None:
    """A node of an older log comes again; only what is new of it has to fit."""
    world = World()
    world.do(node("a", "192.0.2.1", "10.1.0.0/24"))
    for name, ip, cidr in (("b", "10.1.0.7", "10.2.0.0/24"), ("c", "198.51.100.3", "192.0.2.0/24")):
        joined = pb.Event(node_joined=pb.NodeJoined(node=pb.Node(name=name, ip=parse_ip(ip), pod_cidrs=[cidr])))
        world.view.fold(world.state.seq + 1, joined.SerializeToString())
        world.do(node(name, ip, cidr))
    assert world.refusal(node("b", "10.1.0.8", "10.2.0.0/24")).code is Code.CONFLICT
    assert world.refusal(node("c", "198.51.100.3", "192.0.2.0/25")).code is Code.CONFLICT


def test_pod_cidrs_cannot_be_pulled_from_under_endpoints() -> None:
    world = World()
    world.do(node())
    world.do(endpoint())
    refusal = world.refusal(node("node1", "192.0.2.1", "10.7.0.0/24"))
    assert refusal.code is Code.CONFLICT
    assert "endpoint shop/db has 10.244.0.3" in refusal.message
    world.do(node("node1", "192.0.2.1", "10.244.0.0/24", "10.7.0.0/24"))


def test_a_node_leaves_with_its_endpoints_before_it() -> None:
    world = World()
    world.do(node())
    world.do(endpoint("a", "10.244.0.3", 1))
    world.do(endpoint("b", "10.244.0.4", 2))
    world.do(delete("Node", "node1"))
    assert world.bodies == ["endpoint_removed", "endpoint_removed", "node_left"]
    assert world.refusal(delete("Node", "node1")).code is Code.NOT_FOUND
