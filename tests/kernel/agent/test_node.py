"""The devices and routes of a node itself, in a namespace: which addresses it must have, and what is made of them."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from kilim.agent import node_address, node_addresses, node_routes
from kilim.agent.core.node_routes import NodeRoute
from kilim.agent.netlink.node import TUNNEL, NodeDevices, apply_node_devices
from kilim.agent.netlink.node_routes import apply_node_routes
from kilim.agent.netlink.session import NetlinkSession, find_link, open_netlink
from kilim.agent.netlink.uplink import NoUnderlay, Uplink, find_uplink
from kilim.agent.node_address import AddressWatch
from kilim.agent.node_addresses import NodeAddresses
from kilim.agent.node_routes import NodeRoutes
from kilim.agent.settings import Settings
from kilim.lab.netns import create_netns, delete_netns, in_netns
from kilim.model.address import format_ip, is_ipv6, parse_ip
from kilim.model.fold import fold_record
from kilim.model.state import State
from kilim.v1 import events_pb2 as pb

T = TypeVar("T")

IPV4, IPV6 = parse_ip("192.0.2.1"), parse_ip("2001:db8::1")
NODAD, TENTATIVE = 2, 0x40
PORT = 8472


@pytest.fixture
def node(name_prefix: str) -> Iterator[Path]:
    """With two interfaces without addresses, each the other's wire."""
    netns = Path(f"/var/run/netns/{name_prefix}-node")
    try:
        create_netns(netns)
        in_netns(netns, _make_wire)
        yield netns
    finally:
        delete_netns(netns)


def run(netns: Path, work: Callable[[NetlinkSession], Awaitable[T]]) -> T:
    async def with_session() -> T:
        session = NetlinkSession()
        try:
            return await work(session)
        finally:
            await session.close()

    return in_netns(netns, lambda: asyncio.run(with_session()))


def devices(netns: Path, *ips: int, mtu: int = 0) -> NodeDevices:
    return run(netns, lambda session: apply_node_devices(session, ips, PORT, mtu))


@pytest.mark.parametrize(("ips", "overhead"), [((IPV4,), 50), ((IPV6,), 70), ((IPV4, IPV6), 50)])
def test_the_tunnel_leaves_what_the_family_of_the_underlay_takes(
    node: Path, ips: tuple[int, ...], overhead: int
) -> None:
    in_netns(node, lambda: _have("wire0", *ips))
    made = devices(node, *ips)
    assert (made.underlay.name, made.mtu, made.overlay_bytes) == ("wire0", 1500, overhead)
    tunnel = in_netns(node, lambda: _link(TUNNEL))
    assert (tunnel["index"], tunnel.get_attr("IFLA_MTU")) == (made.tunnel_ifindex, 1500 - overhead)
    assert devices(node, *ips, mtu=1400) == NodeDevices(made.underlay, tunnel["index"], 1400, overhead)
    assert in_netns(node, lambda: _link(TUNNEL)).get_attr("IFLA_MTU") == 1400 - overhead
    assert in_netns(node, _addresses_of_tunnel) == []


def test_a_tunnel_of_another_kind_is_made_anew(node: Path) -> None:
    in_netns(node, lambda: _have("wire0", IPV6))
    in_netns(node, _make_other_tunnel)
    other = in_netns(node, lambda: _link(TUNNEL))["index"]
    assert devices(node, IPV6).tunnel_ifindex != other


@pytest.mark.parametrize("missing", [IPV4, IPV6])
def test_every_address_must_be_on_this_node(node: Path, missing: int) -> None:
    in_netns(node, lambda: _have("wire0", *({IPV4, IPV6} - {missing})))
    with pytest.raises(NoUnderlay, match=f"no interface of this node has the address {format_ip(missing)}"):
        devices(node, IPV4, IPV6)


def test_both_addresses_must_be_on_one_interface(node: Path) -> None:
    in_netns(node, lambda: _have("wire0", IPV4))
    in_netns(node, lambda: _have("wire1", IPV6))
    with pytest.raises(NoUnderlay, match="192.0.2.1 is on wire0, 2001:db8::1 is on wire1"):
        devices(node, IPV4, IPV6)


def uplink(netns: Path, *ips: int, devices: tuple[str, ...] = (), held: tuple[int, ...] = ()) -> Uplink:
    return run(netns, lambda session: find_uplink(session, ips, devices, held))


def test_addresses_are_found_on_the_devices_that_are_named(node: Path) -> None:
    in_netns(node, lambda: _have("wire1", IPV4, IPV6))
    found = uplink(node, devices=("wire0", "wire1"))
    assert (found.ips, found.name, found.mtu) == ((IPV4, IPV6), "wire1", 1500)
    assert found.others == (in_netns(node, lambda: _link("wire0"))["index"],)
    assert uplink(node, IPV4, devices=("wire0",)).others == found.others
    with pytest.raises(NoUnderlay, match="no address that other nodes can reach is on wire0"):
        uplink(node, devices=("wire0",))
    with pytest.raises(NoUnderlay, match="there is no device wire7"):
        uplink(node, devices=("wire7",))


def test_else_on_the_device_of_the_default_route(node: Path) -> None:
    in_netns(node, lambda: _have("wire0", IPV4 + 5))
    in_netns(node, lambda: _have("wire1", IPV4, IPV6))
    with pytest.raises(NoUnderlay, match="--node-ip or --devices must be given"):
        uplink(node)
    in_netns(node, lambda: _default_route("wire1", "192.0.2.9"))
    assert uplink(node) == uplink(node, devices=("wire1",))


def test_of_several_addresses_that_in_use_stays(node: Path) -> None:
    other = parse_ip("198.51.100.7")
    in_netns(node, lambda: _have("wire0", IPV4, other))
    assert uplink(node, devices=("wire0",)).ips == (IPV4,)
    assert uplink(node, devices=("wire0",), held=(other,)).ips == (other,)


@pytest.mark.parametrize("goes", [IPV4, IPV6])
def test_a_family_that_goes_is_told_and_waited_for(node: Path, goes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pods have addresses of it; another address of it is taken."""
    monkeypatch.setattr(node_address, "_LOOK_S", 0.01)
    in_netns(node, lambda: _have("wire0", IPV4, IPV6))
    held, told = uplink(node, devices=("wire0",)), [""]

    async def watch(session: NetlinkSession) -> bool:
        watch = AddressWatch(session, held, ("wire0",), False, lambda message: told.append(message))
        following = asyncio.create_task(watch.follow())
        try:
            await asyncio.to_thread(_lose, "wire0", goes)
            await _until(
                lambda: told[-20:] == [f"wire0 has no {'IPv6' if is_ipv6(goes) else 'IPv4'} address any more"] * 20
            )
            early = watch.moved.is_set()
            await asyncio.to_thread(_have, "wire0", goes + 1)
            await _until(watch.moved.is_set)
        finally:
            following.cancel()
            await asyncio.wait([following])
        return early

    assert not run(node, watch)
    assert told[-1] == ""


@pytest.mark.parametrize("late", [IPV4, IPV6])
def test_who_starts_anew_waits_for_each_family_that_it_had(node: Path, late: int) -> None:
    in_netns(node, lambda: _have("wire0", *({IPV4, IPV6} - {late})))
    settings = Settings("n1", "", (), devices=("wire0",))

    async def resolve(session: NetlinkSession) -> Settings:
        resolving = asyncio.create_task(node_address.resolve_addresses(settings, (IPV4, IPV6)))
        await asyncio.wait([resolving], timeout=0.2)
        early = resolving.done()
        await asyncio.to_thread(_have, "wire0", late)
        assert not early
        return await resolving

    assert run(node, resolve).node_ips == (IPV4, IPV6)


def test_who_starts_anew_goes_on_with_what_there_is(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_address, "_FAMILY_S", 0.01)
    in_netns(node, lambda: _have("wire0", IPV4))
    settings = Settings("n1", "", (), devices=("wire0",))
    found = run(node, lambda _: node_address.resolve_addresses(settings, (IPV4, IPV6)))
    assert found.node_ips == (IPV4,)


def test_who_starts_anew_keeps_the_address_that_it_had(node: Path) -> None:
    """Of two of a family. One that is secondary is none of them, so they are of different subnets."""
    other = parse_ip("198.51.100.7")
    in_netns(node, lambda: _have("wire0", IPV4, other))
    settings = Settings("n1", "", (), devices=("wire0",))
    for held in (other, IPV4):
        found = run(node, lambda _, held=held: node_address.resolve_addresses(settings, (held,)))
        assert found.node_ips == (held,)


def test_ipv6_needs_room_for_its_packets(node: Path) -> None:
    in_netns(node, lambda: _have("wire0", IPV4, IPV6))
    assert devices(node, IPV4, IPV6, mtu=1330).mtu == 1330
    assert devices(node, IPV4, mtu=600).mtu == 600
    with pytest.raises(NoUnderlay, match="MTU of 1329 leaves 1279 bytes to pods, and IPv6 needs 1280"):
        devices(node, IPV4, IPV6, mtu=1329)


def test_an_address_that_is_still_probed_is_waited_for(node: Path) -> None:
    in_netns(node, lambda: _have("wire0", IPV6, flags=0))
    assert in_netns(node, lambda: _flags(IPV6)) & TENTATIVE
    assert devices(node, IPV6).underlay.name == "wire0"
    assert not in_netns(node, lambda: _flags(IPV6)) & TENTATIVE


def test_routes_of_both_families_come_and_go(node: Path) -> None:
    in_netns(node, lambda: _have("wire0", IPV4, IPV6))
    underlay = devices(node, IPV4, IPV6).underlay.ifindex
    wanted = {
        "10.61.2.0/24": NodeRoute(parse_ip("192.0.2.2"), IPV4),
        "fd00:61:2::/64": NodeRoute(parse_ip("2001:db8::2"), IPV6),
    }
    moved = wanted | {"fd00:61:2::/64": NodeRoute(parse_ip("2001:db8::3"), IPV6)}
    afar = {
        "10.61.9.0/24": NodeRoute(parse_ip("198.51.100.9"), IPV4),
        "fd00:61:9::/64": NodeRoute(parse_ip("2001:db8:9::9"), IPV6),
    }

    async def apply(session: NetlinkSession) -> list[list[str]]:
        steps = [(wanted, True), (moved, True), (moved, True), (wanted | afar, False), ({}, False)]
        return [await apply_node_routes(session, routes, underlay, delete) for routes, delete in steps]

    assert run(node, apply) == [[], [], [], [*afar], []]
    assert in_netns(node, _our_routes) == {
        ("10.61.2.0", "192.0.2.2", "192.0.2.1"),
        ("fd00:61:2::", "2001:db8::2", "2001:db8::1"),
    }
    run(node, lambda session: apply_node_routes(session, {}, underlay, True))
    assert in_netns(node, _our_routes) == set()


def test_routes_follow_the_nodes_address_and_its_device(node: Path) -> None:
    in_netns(node, lambda: _have("wire0", IPV4, IPV6))
    in_netns(node, lambda: _have("wire1", IPV4 + 4, IPV6 + 4))
    first, second = (in_netns(node, lambda n=name: _link(n))["index"] for name in ("wire0", "wire1"))

    def wanted(source: int) -> dict[str, NodeRoute]:
        gateways = {"10.61.2.0/24": IPV4 + 1, "fd00:61:2::/64": IPV6 + 1}
        return {cidr: NodeRoute(ip, (IPV6 if is_ipv6(ip) else IPV4) + source) for cidr, ip in gateways.items()}

    def sources() -> set[str]:
        return {source for _, _, source in _our_routes()}

    run(node, lambda session: apply_node_routes(session, wanted(0), first, True))
    assert in_netns(node, sources) == {"192.0.2.1", "2001:db8::1"}
    run(node, lambda session: apply_node_routes(session, wanted(4), first, True))
    assert in_netns(node, sources) == {"192.0.2.5", "2001:db8::5"}
    assert in_netns(node, _devices_of_our_routes) == {first}
    run(node, lambda session: apply_node_routes(session, wanted(4), second, True))
    assert in_netns(node, _devices_of_our_routes) == {second}


def test_addresses_of_all_devices_are_followed(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_addresses, "_LOOK_S", 0.02)
    in_netns(node, lambda: _have("wire0", IPV4, IPV6))
    cache = {parse_ip(ip) for ip in ("169.254.20.10", "fd00:61::10")}
    written: list[set[int]] = []
    fails = [True]

    def write(ips: Collection[int]) -> None:
        if fails.pop() if fails else False:
            raise OSError(28, "the map is full")
        written.append(set(ips))

    async def follow(session: NetlinkSession) -> None:
        following = asyncio.create_task(NodeAddresses(session, write).follow())
        try:
            await _until(lambda: written == [{IPV4, IPV6}])
            await asyncio.to_thread(_have, "lo", *cache)
            await _until(lambda: written[-1] == {IPV4, IPV6} | cache)
            await session.run(lambda ipr: ipr.addr("del", index=1, address="169.254.20.10", prefixlen=24))
            await _until(lambda: written[-1] == {IPV4, IPV6, parse_ip("fd00:61::10")})
        finally:
            following.cancel()
            await asyncio.wait([following])

    run(node, follow)


def test_routes_that_the_kernel_has_dropped_come_back(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does with a link that goes down, on which they cannot be written either."""
    monkeypatch.setattr(node_routes, "_LOOK_S", 0.02)
    monkeypatch.setattr(node_routes, "_AGAIN_S", 0.05)
    in_netns(node, lambda: _have("wire0", IPV4))
    underlay, state = devices(node, IPV4).underlay.ifindex, State()
    event = pb.Event(node_joined=pb.NodeJoined(node=pb.Node(name="n2", ip=IPV4 + 1, pod_cidrs=["10.61.2.0/24"])))
    fold_record(state, 1, event.SerializeToString())
    wanted = {("10.61.2.0", "192.0.2.2", "192.0.2.1")}

    async def flap(session: NetlinkSession) -> None:
        routes = NodeRoutes(Settings("n1", "192.0.2.1", ()), session, underlay, lambda: (state.nodes, True))
        following = asyncio.create_task(routes.follow())
        try:
            await _until(lambda: _our_routes() == wanted)
            await session.run(lambda ipr: ipr.link("set", index=underlay, state="down"))
            await _until(lambda: routes._told is not None)
            assert await asyncio.to_thread(_our_routes) == set()
            await session.run(lambda ipr: ipr.link("set", index=underlay, state="up"))
            await _until(lambda: _our_routes() == wanted)
        finally:
            following.cancel()
            await asyncio.wait([following])

    run(node, flap)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(condition):
            pass


def _make_wire() -> None:
    with open_netlink() as ipr:
        ipr.link("add", ifname="wire0", kind="veth", peer={"ifname": "wire1"})
        for name in ("lo", "wire0", "wire1"):
            ipr.link("set", index=ipr.link_lookup(ifname=name)[0], state="up")


def _make_other_tunnel() -> None:
    with open_netlink() as ipr:
        ipr.link("add", ifname=TUNNEL, kind="vxlan", vxlan_collect_metadata=1, vxlan_port=PORT + 1)


def _have(name: str, *ips: int, flags: int = NODAD) -> None:
    with open_netlink() as ipr:
        index = ipr.link_lookup(ifname=name)[0]
        for ip in ips:
            family: dict[str, Any] = {"prefixlen": 64, "flags": flags} if is_ipv6(ip) else {"prefixlen": 24}
            ipr.addr("add", index=index, address=format_ip(ip), **family)


def _lose(name: str, ip: int) -> None:
    with open_netlink() as ipr:
        index = ipr.link_lookup(ifname=name)[0]
        ipr.addr("del", index=index, address=format_ip(ip), prefixlen=64 if is_ipv6(ip) else 24)


def _default_route(name: str, gateway: str) -> None:
    with open_netlink() as ipr:
        ipr.route("add", dst="default", gateway=gateway, oif=ipr.link_lookup(ifname=name)[0])


def _link(name: str) -> Any:
    with open_netlink() as ipr:
        return find_link(ipr, name)


def _flags(ip: int) -> int:
    with open_netlink() as ipr:
        found = [each for each in ipr.get_addr(family=socket.AF_INET6) if each.get_attr("IFA_ADDRESS") == format_ip(ip)]
    return int(found[0]["flags"])


def _addresses_of_tunnel() -> list[Any]:
    with open_netlink() as ipr:
        return list(ipr.get_addr(index=ipr.link_lookup(ifname=TUNNEL)[0]))


def _devices_of_our_routes() -> set[int]:
    with open_netlink() as ipr:
        routes = [*ipr.get_routes(family=socket.AF_INET), *ipr.get_routes(family=socket.AF_INET6)]
    return {route.get_attr("RTA_OIF") for route in routes if route["proto"] == 120}


def _our_routes() -> set[tuple[str, str, str]]:
    with open_netlink() as ipr:
        routes = [*ipr.get_routes(family=socket.AF_INET), *ipr.get_routes(family=socket.AF_INET6)]
    ours = [route for route in routes if route["proto"] == 120]
    return {tuple(map(route.get_attr, ("RTA_DST", "RTA_GATEWAY", "RTA_PREFSRC"))) for route in ours}
