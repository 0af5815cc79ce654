"""Who is who in policy, in both directions, families and routing modes: the own node, other nodes, the API server, the
world, which here reaches pods by routes. And on an underlay of jumbo frames pods use them, none of which is fragmented.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyroute2
import pytest

from kilim.lab import api
from kilim.lab.client import ControlPlane
from kilim.lab.cluster import ClusterSpec, bring_up, take_down
from kilim.lab.commands import replica_targets
from kilim.lab.fabric import BRIDGE
from kilim.lab.names import NETNS_DIR, fabric_port
from kilim.lab.netns import in_netns, open_socket
from kilim.lab.topology import External, Lab, Port, default_node_plans
from tests.lab.test_native import NATIVE, allow, pods_of, until

OUTSIDE = (
    External("api", "198.51.100.6", ports=(Port(80, "TCP"),), ipv6="2001:db8:51::6"),
    External("web", "198.51.100.9", ports=(Port(80, "TCP"),), ipv6="2001:db8:51::9"),
)
POD = "shop/server"  # on node1; node2 is an API server, too
ENDS = ("node:node1", "node:node2", "node:node3", "ext:api", "ext:web", "shop/far")
JUMBO = 9000
IPV6_HEADER, UDP_HEADER, PORT = 40, 8, 7200
PMTUDISC_DO = 2
MTU_DISCOVER = {socket.AF_INET: (socket.IPPROTO_IP, 10), socket.AF_INET6: (socket.IPPROTO_IPV6, 23)}


@dataclass
class World:
    lab: Lab
    overhead: int  # of the tunnel
    pod_netns: str


@pytest.fixture(scope="module", params=["tunnel", "native"])
async def world(request: pytest.FixtureRequest, name_prefix: str) -> AsyncIterator[World]:
    """The underlay knows the way to pods, and nobody is masqueraded."""
    name, native = f"{name_prefix}-i", request.param == "native"
    options = ("--devices=eth0", "--enable-ipv4-masquerade=false", "--enable-ipv6-masquerade=false")
    options += NATIVE if native else ()
    spec = ClusterSpec(name, default_node_plans(3), 1, 1, OUTSIDE, agent_options=options)
    try:
        lab = await bring_up(spec)
        pods = [
            await api.add_pod(name, f"shop/{pod}", node, labels={"app": pod}, ports=["80"])
            for pod, node in (("server", "node1"), ("far", "node2"))
        ]
        await apply(lab, *api_servers(lab))
        yield World(lab, 0 if native else 50, pods[0]["netns"])
    finally:
        take_down(name)


async def apply(lab: Lab, *bodies: dict[str, Any]) -> None:
    async with ControlPlane(replica_targets(lab)) as plane:
        await plane.wait(await plane.apply([("test", body) for body in bodies]))


def api_servers(lab: Lab) -> list[dict[str, Any]]:
    addresses = [*OUTSIDE[0].ips, *lab.node("node2").ips]
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"kubernetes-{family.lower()}",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": family,
            "ports": [{"name": "https", "port": 6443}],
            "endpoints": [{"addresses": [ip]} for ip in addresses if (":" in ip) == (family == "IPv6")],
        }
        for family in ("IPv4", "IPv6")
    ]


async def reaches(lab: Lab, source: str, target: str) -> str:
    """Over both families. Nobody listens outside."""
    found = await api.probe(lab.name, source, target, 80)
    if target.startswith("ext:") and found.get("message") == "Connection refused":
        return "+"
    return {"allow": "+", "deny": "-"}.get(found["got"], str(found))


@pytest.mark.parametrize(
    ("peers", "into", "out"),
    [
        ({"Entities": ["host"]}, "+-----", "+-----"),
        ({"Entities": ["remote-node"]}, "+++---", "-++---"),
        ({"Entities": ["kube-apiserver"]}, "++-+--", "-+-+--"),
        ({"Entities": ["world"]}, "+--++-", "---++-"),
        ({"Entities": ["cluster"]}, "++++-+", "++++-+"),
        ({"CIDR": ["198.51.100.8/29", "2001:db8:51::8/125"]}, "+---+-", "----+-"),
        ({"Endpoints": pods_of("far")}, "+----+", "-----+"),
    ],
    ids=["host", "remote-node", "kube-apiserver", "world", "cluster", "CIDR", "pods"],
)
async def test_entities(world: World, peers: dict[str, Any], into: str, out: str) -> None:
    """The way in from the own node is open in any case."""
    [(kind, names)] = peers.items()
    await apply(world.lab, allow({f"from{kind}": names}, egress=({f"to{kind}": names},)))
    pairs = [(end, POD) for end in ENDS] + [(POD, end) for end in ENDS]
    got = await asyncio.gather(*(reaches(world.lab, *pair) for pair in pairs))
    assert "".join(got) == into + out


def netlink(lab: Lab, role: str, work: Callable[[Any], Any]) -> Any:
    def run() -> Any:
        with pyroute2.IPRoute() as ipr:  # type: ignore[attr-defined,no-untyped-call]
            return work(ipr)

    return in_netns(lab.netns(role), run)


def set_mtu(name: str, mtu: int) -> Callable[[Any], None]:
    def work(ipr: Any) -> None:
        ipr.link("set", index=ipr.link_lookup(ifname=name)[0], mtu=mtu)

    return work


def fragments(lab: Lab, node: str) -> dict[str, int]:
    """That the node's stack has made."""

    def read() -> dict[str, int]:
        with open("/proc/thread-self/net/snmp") as file:
            names, values = [line.split() for line in file if line.startswith("Ip:")]
        with open("/proc/thread-self/net/snmp6") as file:
            ipv6 = dict(line.split() for line in file)
        return {"IPv4": int(values[names.index("FragCreates")]), "IPv6": int(ipv6["Ip6FragCreates"])}

    return in_netns(lab.netns(node), read)


def has_started_anew(lab: Lab, node: str) -> bool:
    return (lab.run_dir / "logs" / f"{node}.log").read_text().count("registered") > 1


async def test_jumbo_frames(world: World) -> None:
    """What fits is sent whole, in both families; what is a byte longer is refused at the pod."""
    lab, loop = world.lab, asyncio.get_running_loop()
    netlink(lab, "fabric", set_mtu(BRIDGE, JUMBO))
    for node in lab.nodes:
        netlink(lab, "fabric", set_mtu(fabric_port(node.name), JUMBO))
        netlink(lab, node.name, set_mtu("eth0", JUMBO))
    for node in lab.nodes:
        await until(partial(has_started_anew, lab, node.name))
    here, there = [await api.add_pod(lab.name, f"large/{node}", node) for node in ("node1", "node2")]
    before = {node.name: fragments(lab, node.name) for node in lab.nodes}
    for family, ip in zip(MTU_DISCOVER, there["ips"], strict=True):
        most = JUMBO - world.overhead - UDP_HEADER - (IPV6_HEADER if family == socket.AF_INET6 else 20)
        with (
            open_socket(NETNS_DIR / there["netns"], family, socket.SOCK_DGRAM) as server,
            open_socket(NETNS_DIR / here["netns"], family, socket.SOCK_DGRAM) as client,
        ):
            server.bind((ip, PORT))
            client.setsockopt(*MTU_DISCOVER[family], PMTUDISC_DO)
            client.connect((ip, PORT))
            with pytest.raises(OSError, match="Message too long"):
                client.send(b"x" * (most + 1))
            client.send(b"x" * most)
            async with asyncio.timeout(10):
                assert len(await loop.sock_recv(server, JUMBO)) == most
    assert {node.name: fragments(lab, node.name) for node in lab.nodes} == before


NODE_LOCAL = {socket.AF_INET: "169.254.20.10", socket.AF_INET6: "fd00:61::10"}


async def test_an_address_itself_is_an_end_in_either_family(world: World) -> None:
    await apply(world.lab, allow({"fromEntities": ["world"]}, egress=({"toEntities": ["remote-node"]},)))
    node, outside = world.lab.node("node2"), OUTSIDE[1]
    for ips, got in ((node.ips, "allow"), (outside.ips, "deny")):
        assert [(await api.probe(world.lab.name, POD, ip, 80))["got"] for ip in ips] == [got, got]


async def until_it_is(wanted: bool, look: Callable[[], Awaitable[bool]]) -> None:
    """The agent looks once a second."""
    async with asyncio.timeout(20):
        while True:
            if await look() is wanted:
                return
            await asyncio.sleep(0.1)


async def connects(world: World, family: int) -> bool:
    handle = open_socket(NETNS_DIR / world.pod_netns, family, socket.SOCK_STREAM)
    with handle:
        try:
            async with asyncio.timeout(1):
                await asyncio.get_running_loop().sock_connect(handle, (NODE_LOCAL[family], PORT))
        except (TimeoutError, OSError):
            return False
        return True


async def test_what_listens_on_another_address_of_the_node_is_host(world: World) -> None:
    """As a DNS cache on every node does. It comes while the agent runs."""

    def switch(verb: str, ipr: Any) -> None:
        for family, ip in NODE_LOCAL.items():
            ipr.addr(verb, index=1, address=ip, prefixlen=32 if family == socket.AF_INET else 128)

    netlink(world.lab, "node1", partial(switch, "add"))
    listeners = []
    try:
        for family, ip in NODE_LOCAL.items():
            listeners.append(open_socket(world.lab.netns("node1"), family, socket.SOCK_STREAM))
            listeners[-1].bind((ip, PORT))
            listeners[-1].listen()
        for entity, reached in (("host", True), ("world", False), ("host", True)):
            await apply(world.lab, allow({"fromEntities": ["world"]}, egress=({"toEntities": [entity]},)))
            for family in NODE_LOCAL:
                await until_it_is(reached, partial(connects, world, family))
    finally:
        for each in listeners:
            each.close()
        netlink(world.lab, "node1", partial(switch, "del"))
