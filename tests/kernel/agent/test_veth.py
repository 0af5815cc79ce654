"""Pairs between a node and a pod, in namespaces, without programs: the addresses of either family, of both, and what
each side can reach by them as soon as the pair is made."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from kilim.agent.core.link import PodLink
from kilim.agent.netlink.session import NetlinkSession, open_netlink
from kilim.agent.netlink.veth import PodLinks
from kilim.lab.netns import create_netns, delete_netns, in_netns
from kilim.model.address import format_ip, is_ipv6, parse_ip

T = TypeVar("T")

NODE_IPS = (parse_ip("192.0.2.1"), parse_ip("2001:db8::1"))
POD_IPS = (parse_ip("10.61.1.5"), parse_ip("fd00:10:61:1::5"))
NODAD = 2
FAMILIES = {"ipv4": slice(0, 1), "ipv6": slice(1, 2), "dual": slice(0, 2)}


@dataclass
class Pair:
    node: Path
    pod: Path
    wanted: PodLink

    def run(self, work: Callable[[PodLinks], Awaitable[T]]) -> T:
        """With a session in the node's namespace: threads begin in the one of whoever starts them."""

        async def with_session() -> T:
            session = NetlinkSession()
            try:
                return await work(PodLinks(session))
            finally:
                await session.close()

        return in_netns(self.node, lambda: asyncio.run(with_session()))

    async def make(self, links: PodLinks) -> None:
        await links.create(self.wanted)
        await links.configure(self.wanted)
        await links.raise_host_side(self.wanted)


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest, name_prefix: str) -> Iterator[Pair]:
    ips = FAMILIES[request.param]
    node, pod = (Path(f"/var/run/netns/{name_prefix}-v{role}") for role in ("node", "pod"))
    try:
        for netns in (node, pod):
            create_netns(netns)
        in_netns(pod, _switch_ipv6_off)
        in_netns(node, lambda: _have_addresses(NODE_IPS[ips]))
        ends = ("eth0", str(pod), POD_IPS[ips], NODE_IPS[ips])
        yield Pair(node, pod, PodLink("shop", "db", "c1", 7, *ends, 1500, 1450))
    finally:
        for netns in (pod, node):
            delete_netns(netns)


def test_both_sides_reach_each_other_at_once(pair: Pair) -> None:
    pair.run(pair.make)
    for ip, node_ip in zip(pair.wanted.ips, pair.wanted.node_ips, strict=True):
        assert _peer(pair.pod, ip, pair.node) == format_ip(node_ip)  # the node comes from its own address
        assert _peer(pair.node, node_ip, pair.pod) == format_ip(ip)


def test_what_is_made_is_found_without_memory_and_made_again_without_harm(pair: Pair) -> None:
    made = pair.run(lambda links: links.create(pair.wanted))
    for _ in range(2):
        pair.run(pair.make)
    assert pair.run(lambda links: links.read()) == [made]
    assert (made.endpoint_id, made.ips) == (7, pair.wanted.ips)
    assert pair.run(lambda links: links.check(pair.wanted)) == []
    pair.run(lambda links: links.delete(made.name))
    assert pair.run(lambda links: links.read()) == []
    assert in_netns(pair.node, _our_routes) == set()


def test_the_pod_has_its_addresses_and_no_other(pair: Pair) -> None:
    pair.run(pair.make)
    addresses, routes = in_netns(pair.pod, _seen_inside)
    assert addresses == {(format_ip(ip), 128 if is_ipv6(ip) else 32) for ip in pair.wanted.ips}
    gateways = {"fe80::1" if is_ipv6(ip) else "169.254.1.1" for ip in pair.wanted.ips}
    assert routes == {(gateway, 1450) for gateway in gateways}
    assert in_netns(pair.node, _our_routes) == {format_ip(ip) for ip in pair.wanted.ips}


def test_check_names_what_is_gone_of_each_family(pair: Pair) -> None:
    pair.run(pair.make)
    for ip in pair.wanted.ips:
        in_netns(pair.pod, lambda ip=ip: _take_away(ip))  # type: ignore[misc]
    wrong = "; ".join(pair.run(lambda links: links.check(pair.wanted)))
    for ip in pair.wanted.ips:
        assert f"does not have the address {format_ip(ip)}" in wrong
        assert f"does not go to {'fe80::1' if is_ipv6(ip) else '169.254.1.1'}" in wrong


def test_nothing_asks_for_routers_or_for_doubles(pair: Pair) -> None:
    """Neighbour and router discovery is all that would; what is left is MLD, which nothing switches off."""

    async def make_and_listen(links: PodLinks) -> socket.socket:
        link = await links.create(pair.wanted)
        heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
        heard.bind((link.name, 0))
        await pair.make(links)
        return heard

    with pair.run(make_and_listen) as heard:
        for ip, node_ip in zip(pair.wanted.ips, pair.wanted.node_ips, strict=True):
            assert _peer(pair.node, node_ip, pair.pod) == format_ip(ip)
        types = {frame[54] for frame in _frames(heard) if frame[20] == socket.IPPROTO_ICMPV6}
    assert types.isdisjoint({133, 134, 135, 136})


def _switch_ipv6_off() -> None:
    """As some runtimes do for every new namespace."""
    for which in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6").write_text("1")


def _have_addresses(ips: tuple[int, ...]) -> None:
    with open_netlink() as ipr:
        ipr.link("set", index=1, state="up")
        for ip in ips:
            family: dict[str, Any] = {"prefixlen": 128, "flags": NODAD} if is_ipv6(ip) else {"prefixlen": 32}
            ipr.addr("add", index=1, address=format_ip(ip), **family)


def _peer(server: Path, ip: int, client: Path) -> str:
    """What address a connection comes from."""
    family = socket.AF_INET6 if is_ipv6(ip) else socket.AF_INET
    with in_netns(server, lambda: socket.create_server((format_ip(ip), 80), family=family)) as listener:
        with in_netns(client, lambda: socket.create_connection((format_ip(ip), 80), 2)):
            accepted, peer = listener.accept()
            accepted.close()
    return str(peer[0])


def _seen_inside() -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    """Addresses of eth0 with their prefix lengths; gateways with the MTU of their routes."""
    with open_netlink() as ipr:
        index = ipr.link_lookup(ifname="eth0")[0]
        addresses = {(each.get_attr("IFA_ADDRESS"), each["prefixlen"]) for each in ipr.get_addr(index=index)}
        defaults = [*ipr.get_default_routes(family=socket.AF_INET), *ipr.get_default_routes(family=socket.AF_INET6)]
        routes = {
            (each.get_attr("RTA_GATEWAY"), each.get_attr("RTA_METRICS").get_attr("RTAX_MTU")) for each in defaults
        }
    return addresses, routes


def _our_routes() -> set[str]:
    with open_netlink() as ipr:
        families = (socket.AF_INET, socket.AF_INET6)
        routes = [route for family in families for route in ipr.get_routes(family=family) if route["proto"] == 120]
    return {route.get_attr("RTA_DST") for route in routes}


def _take_away(ip: int) -> None:
    with open_netlink() as ipr:
        index = ipr.link_lookup(ifname="eth0")[0]
        ipr.flush_routes(family=socket.AF_INET6 if is_ipv6(ip) else socket.AF_INET, oif=index, table=254)
        ipr.addr("del", index=index, address=format_ip(ip), prefixlen=128 if is_ipv6(ip) else 32)


def _frames(heard: socket.socket) -> Iterator[bytes]:
    heard.setblocking(False)
    while True:
        try:
            yield heard.recv(2048)
        except BlockingIOError:
            return
        except OSError:  # once, as the link was down when the socket was bound
            continue
