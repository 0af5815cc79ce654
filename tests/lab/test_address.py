"""Agents that find their nodes' addresses by themselves, and an address that changes while they run."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pyroute2
import pytest

from kilim.lab import api
from kilim.lab.client import ControlPlane
from kilim.lab.cluster import ClusterSpec, bring_up, take_down
from kilim.lab.commands import replica_targets
from kilim.lab.netns import in_netns
from kilim.lab.topology import External, Lab, Port, default_node_plans
from kilim.v1 import controlplane_pb2 as pb
from tests.lab.test_membership import talks

NEW = {4: "192.168.60.202", 6: "fd00:60::202"}
PATIENCE_S = 40.0
OUTSIDE = External("outside", "198.51.100.9", ports=(Port(80, "TCP"),), ipv6="2001:db8:51::9")


@pytest.fixture(params=["tunnel", "native"])
async def lab(request: pytest.FixtureRequest, name_prefix: str) -> AsyncIterator[Lab]:
    name = f"{name_prefix}-a"
    native = ("--routing-mode=native", "--auto-direct-node-routes") if request.param == "native" else ()
    options = ("--devices=eth0", "--health-probe-interval=2s", *native)
    spec = ClusterSpec(name, default_node_plans(2), 1, 1, (OUTSIDE,), agent_options=options, routed_pods=False)
    try:
        yield await bring_up(spec)
    finally:
        take_down(name)


def change_addresses(lab: Lab, node: str) -> None:
    """The new ones first, as who moves a host does it."""

    def change() -> None:
        with pyroute2.IPRoute() as ipr:  # type: ignore[attr-defined,no-untyped-call]
            index = ipr.link_lookup(ifname="eth0")[0]
            ipr.addr("add", index=index, address=NEW[4], prefixlen=24)
            ipr.addr("add", index=index, address=NEW[6], prefixlen=64, flags=2)  # IFA_F_NODAD
            old = next(each for each in lab.nodes if each.name == node)
            for ip in old.ips:
                ipr.addr("del", index=index, address=ip, prefixlen=64 if ":" in ip else 24)
            if not any(each.get_attr("IFA_ADDRESS") == NEW[4] for each in ipr.get_addr(index=index)):
                ipr.addr("add", index=index, address=NEW[4], prefixlen=24)  # it went with the first of its subnet

    def know_the_way() -> None:
        """The world outside has a route for each address of a node."""
        with pyroute2.IPRoute() as ipr:  # type: ignore[attr-defined,no-untyped-call]
            index = ipr.link_lookup(ifname="eth0")[0]
            for ip, length in ((NEW[4], 32), (NEW[6], 128)):
                ipr.route("replace", dst=f"{ip}/{length}", oif=index)

    in_netns(lab.netns(node), change)
    in_netns(lab.netns("ext-outside"), know_the_way)


async def until(plane: ControlPlane, look: Callable[[pb.StatusResponse], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if look(await plane.status()):
                return
            await asyncio.sleep(0.1)


def addresses(status: pb.StatusResponse) -> dict[str, tuple[str, str]]:
    return {node.name: (node.ip, node.ipv6) for node in status.nodes}


def is_well(status: pb.StatusResponse) -> bool:
    return status.ok and all(node.health.reachable == node.health.nodes == 1 for node in status.nodes)


async def test_a_node_whose_address_changes_goes_on(lab: Lab) -> None:
    """Connections between its own pods never notice; those with other nodes find the new way."""
    pods: dict[str, dict[str, Any]] = {
        pod: await api.add_pod(lab.name, f"shop/{pod}", node, ports=["80"])
        for pod, node in (("server", "node2"), ("near", "node2"), ("far", "node1"))
    }
    async with ControlPlane(replica_targets(lab)) as plane:
        before = addresses(await plane.status())
        assert before == {node.name: node.ips for node in lab.nodes}
        async with talks(pods["server"], [pods["near"]]) as (talk,):
            change_addresses(lab, "node2")
            await until(plane, lambda status: addresses(status)["node2"] == (NEW[4], NEW[6]))
            await until(plane, is_well)
        assert talk.longest_s < 1.0
        for family in ("IPv4", "IPv6"):
            for source, target in (("far", "server"), ("server", "far"), ("near", "server")):
                answer = await api.probe(lab.name, f"shop/{source}", f"shop/{target}", 80, family=family)
                assert answer["got"] == "allow"
            answer = await api.probe(lab.name, "shop/server", "ext:outside", 8, "ICMP", family=family)
            assert answer["got"] == "allow", str(answer)
