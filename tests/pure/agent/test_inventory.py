"""Addresses and endpoint ids for an ADD: of both families together or not at all, the same again for who has some."""

from typing import Any

import pytest

from kilim.agent.cni import spec
from kilim.agent.cni.requests import PodRequest, decode_request
from kilim.agent.cni.spec import CniError
from kilim.agent.core.link import LocalLink, link_name
from kilim.agent.inventory import Inventory, NodeFacts
from kilim.agent.replica import Replica
from kilim.model.address import format_ip, is_ipv6, parse_ip
from tests.pure.agent.commits import NODE, endpoint_added, identity_allocated, log_of

NODE_IPS = (parse_ip("192.0.2.1"), parse_ip("2001:db8::1"))
POD_CIDRS = ("10.61.1.0/24", "fd00:61:1::/64")


def inventory(
    node_ips: tuple[int, ...] = NODE_IPS, pod_cidrs: tuple[str, ...] = POD_CIDRS, *events: bytes
) -> Inventory:
    replica = Replica(NODE)
    for commit in log_of([identity_allocated(300), *events]):
        replica.apply_commit(commit)
    return Inventory(NodeFacts(NODE, node_ips, 1500, 1450, pod_cidrs), lambda: replica, {})


def add(container: str, *ips: str) -> PodRequest:
    environment = {"CONTAINERID": container, "IFNAME": "eth0", "NETNS": "/n"}
    config: dict[str, Any] = {"cniVersion": "1.1.0", "name": "kilim", "runtimeConfig": {"ips": list(ips)}}
    return decode_request({"command": "ADD", "environment": environment, "config": config})


def reserved(kept: Inventory, container: str, *ips: str) -> tuple[list[str], int]:
    with kept.reserve(add(container, *ips)) as (found, endpoint_id):
        return [format_ip(ip) for ip in found], endpoint_id


def connect(kept: Inventory, container: str, endpoint_id: int, *ips: str) -> LocalLink:
    found = tuple(map(parse_ip, ips))
    link = LocalLink(link_name(container, "eth0"), 7, "default", container, container, endpoint_id, found)
    kept.remember(link)
    return link


def test_one_address_of_each_family_of_the_node() -> None:
    assert reserved(inventory(), "a") == (["10.61.1.2", "fd00:61:1::2"], 1)
    assert reserved(inventory(NODE_IPS[:1]), "a") == (["10.61.1.2"], 1)
    assert reserved(inventory(NODE_IPS[1:]), "a") == (["fd00:61:1::2"], 1)


def test_who_is_connected_keeps_what_it_has() -> None:
    kept = inventory()
    connect(kept, "a", 9, "10.61.1.7", "fd00:61:1::7")
    assert reserved(kept, "a") == (["10.61.1.7", "fd00:61:1::7"], 9)
    assert reserved(kept, "a", "fd00:61:1::7") == (["10.61.1.7", "fd00:61:1::7"], 9)
    assert reserved(kept, "a", "10.61.1.7", "fd00:61:1::8")[0] == ["10.61.1.7", "fd00:61:1::8"]
    alone = inventory()
    connect(alone, "a", 9, "10.61.1.7")
    assert reserved(alone, "a")[0] == ["10.61.1.7"]  # from before the node had IPv6


def test_nobody_elses_id_is_taken() -> None:
    kept = inventory(NODE_IPS, POD_CIDRS, endpoint_added("z", parse_ip("10.61.1.9")))
    taken = parse_ip("10.61.1.9") & 0xFFFF
    connect(kept, "a", taken, "10.61.1.7", "fd00:61:1::7")
    connect(kept, "b", 1, "10.61.1.8", "fd00:61:1::8")
    assert reserved(kept, "a")[1] not in (taken, 1)


def test_what_one_has_asked_for_nobody_else_gets_meanwhile() -> None:
    kept = inventory()
    with kept.reserve(add("a", "fd00:61:1::9")) as (ips, _):
        assert format_ip(ips[1]) == "fd00:61:1::9"
        for asked in (["fd00:61:1::9"], [format_ip(ips[0])], ["10.61.1.50", "fd00:61:1::9"]):
            with pytest.raises(CniError, match="in use"):
                reserved(kept, "b", *asked)
        assert reserved(kept, "b", "10.61.1.50")[0][0] == "10.61.1.50"
    assert reserved(kept, "b", "fd00:61:1::9")[0][1] == "fd00:61:1::9"


def test_none_of_either_family_where_one_is_used_up() -> None:
    kept = inventory(NODE_IPS, ("10.61.1.0/30", POD_CIDRS[1]))
    connect(kept, "a", 9, "10.61.1.2", "fd00:61:1::2")
    with pytest.raises(CniError, match="all 1 addresses") as raised:
        reserved(kept, "b")
    assert raised.value.code == spec.POOL_EXHAUSTED


@pytest.mark.parametrize(
    ("node_ips", "asked"), [(NODE_IPS[:1], "fd00:61:1::9"), (NODE_IPS[1:], "10.61.1.9"), (NODE_IPS, "fd00::9")]
)
def test_what_the_node_does_not_have_is_refused_by_name(node_ips: tuple[int, ...], asked: str) -> None:
    with pytest.raises(CniError, match=rf"runtimeConfig.ips: {asked} is in none of the node's") as raised:
        reserved(inventory(node_ips), "a", asked)
    assert raised.value.code == spec.INVALID_CONFIG


def test_a_node_whose_pod_cidrs_are_of_the_other_family_has_none_yet() -> None:
    with pytest.raises(CniError, match="no pod CIDRs") as raised:
        reserved(inventory(NODE_IPS[1:], POD_CIDRS[:1]), "a")
    assert raised.value.code == spec.TRY_AGAIN_LATER


def test_every_address_leads_to_the_interface() -> None:
    ifindex_of: dict[int, int] = {}
    replica = Replica(NODE)
    kept = Inventory(NodeFacts(NODE, NODE_IPS, 1500, 1450, POD_CIDRS), lambda: replica, ifindex_of)
    link = connect(kept, "a", 9, "10.61.1.7", "fd00:61:1::7")
    assert ifindex_of == dict.fromkeys(link.ips, 7) and any(map(is_ipv6, ifindex_of))
    kept.forget(link)
    assert ifindex_of == {} and kept.links() == []
