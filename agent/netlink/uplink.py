"""The node's own addresses and the device that has them: the underlay. Found where they are not given.

Easy to get wrong: of several addresses of a family that do, the one in use stays, else the kernel's first counts; and
an address that the kernel still probes for doubles is not there yet.
"""

import socket
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from kilim.agent.netlink.session import NetlinkSession, find_link
from kilim.model.address import format_ip, is_ipv6, parse_ip

_TENTATIVE, _DAD_FAILED, _DEPRECATED, _SECONDARY = 0x40, 0x08, 0x20, 0x01  # linux/if_addr.h
_GLOBAL = 0  # scope, rtnetlink(7)


class NoUnderlay(Exception):
    """No interface has the node's addresses, or the one that has them does not do."""


class StillProbed(NoUnderlay):
    """Another host may have the address: the kernel is asking."""


@dataclass(frozen=True, slots=True)
class Uplink:
    """`ips`: of the node, one per family, IPv4 first. `mtu` in bytes. `others`: further devices towards the wire, by
    index."""

    ips: tuple[int, ...]
    name: str
    ifindex: int
    mtu: int
    others: tuple[int, ...] = ()


async def find_uplink(
    session: NetlinkSession, node_ips: Sequence[int], devices: Sequence[str], held: Collection[int] = ()
) -> Uplink:
    """`node_ips` empty: those of the first of `devices` that has any, or of the device of the default route; of several
    rather those of `held`. Raises NoUnderlay, OSError."""
    return await session.run(lambda ipr: look_for_uplink(ipr, node_ips, devices, held))


def look_for_uplink(ipr: Any, node_ips: Sequence[int], devices: Sequence[str], held: Collection[int] = ()) -> Uplink:
    named = [_named(ipr, name) for name in devices]
    if node_ips:
        link, ips = _link_with(ipr, node_ips), tuple(node_ips)
    else:
        link, ips = _link_with_any(ipr, named or list(_default_links(ipr)), held)
    others = tuple(each["index"] for each in named if each["index"] != link["index"])
    return Uplink(ips, str(link.get_attr("IFLA_IFNAME")), int(link["index"]), int(link.get_attr("IFLA_MTU")), others)


async def read_own_addresses(session: NetlinkSession) -> frozenset[int]:
    """All that devices of this node have, but loopback's and those of a link alone. Raises OSError."""
    return await session.run(_own_addresses)


def _own_addresses(ipr: Any) -> frozenset[int]:
    found = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for address in ipr.get_addr(family=family):
            text = str(address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS"))
            ip = parse_ip(text)
            if not ip_address(text).is_loopback and not (is_ipv6(ip) and ip_address(text).is_link_local):
                found.add(ip)
    return frozenset(found)


def _named(ipr: Any, name: str) -> Any:
    link = find_link(ipr, name)
    if link is None:
        raise NoUnderlay(f"there is no device {name}")
    return link


def _default_links(ipr: Any) -> Iterator[Any]:
    """The kernel lists routes by their metrics."""
    seen = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for route in ipr.get_default_routes(family=family):
            index = route.get_attr("RTA_OIF")
            if index and index not in seen:
                seen.add(index)
                yield ipr.get_links(index)[0]


def _link_with_any(ipr: Any, links: Sequence[Any], held: Collection[int]) -> tuple[Any, tuple[int, ...]]:
    for link in links:
        if ips := _ips_of(ipr, int(link["index"]), held):
            return link, ips
    if not links:
        raise NoUnderlay("no device has a default route: --node-ip or --devices must be given")
    names = ", ".join(str(link.get_attr("IFLA_IFNAME")) for link in links)
    raise NoUnderlay(f"no address that other nodes can reach is on {names}")


def _ips_of(ipr: Any, index: int, held: Collection[int]) -> tuple[int, ...]:
    found: list[int] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        usable = [
            parse_ip(str(address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS")))
            for address in ipr.get_addr(family=family, index=index)
            if address["scope"] == _GLOBAL and not _flags(address) & (_DAD_FAILED | _DEPRECATED | _SECONDARY)
        ]
        found += [ip for ip in usable if ip in held][:1] or usable[:1]
    for ip in found:
        _index_of(ipr, ip)  # raises while one of them is probed
    return tuple(found)


def _link_with(ipr: Any, node_ips: Sequence[int]) -> Any:
    indexes = [_index_of(ipr, ip) for ip in node_ips]
    links = [ipr.get_links(index)[0] for index in indexes]
    if len(set(indexes)) > 1:
        names = [str(link.get_attr("IFLA_IFNAME")) for link in links]
        where = ", ".join(f"{format_ip(ip)} is on {name}" for ip, name in zip(node_ips, names, strict=True))
        raise NoUnderlay(f"the node's addresses must be on one interface: {where}")
    return links[0]


def _index_of(ipr: Any, ip: int) -> int:
    text = format_ip(ip)
    for address in ipr.get_addr(family=socket.AF_INET6 if is_ipv6(ip) else socket.AF_INET):
        if text not in (address.get_attr("IFA_LOCAL"), address.get_attr("IFA_ADDRESS")):
            continue
        if _flags(address) & _DAD_FAILED:
            raise NoUnderlay(f"another host has the address {text} of this node too")
        if _flags(address) & _TENTATIVE:
            raise StillProbed(f"the kernel has not yet found out whether another host has the address {text}")
        return int(address["index"])
    raise NoUnderlay(f"no interface of this node has the address {text}")


def _flags(address: Any) -> int:
    return int(address.get_attr("IFA_FLAGS") or address["flags"])
