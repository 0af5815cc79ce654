"""The node's own devices: the tunnel that it makes, the underlay that it finds."""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kilim.agent.netlink.session import GONE, NetlinkSession, find_link, tolerate
from kilim.agent.netlink.sysctl import quiet_link
from kilim.model.address import format_ip, is_ipv6
from kilim.model.mac import tunnel_mac

TUNNEL = "kilim_vxlan"

_TENTATIVE, _DAD_FAILED = 0x40, 0x08
_DAD_S, _DAD_STEP_S = 5.0, 0.1
_IPV6_MTU_MIN = 1280  # RFC 8200, 5


@dataclass(frozen=True, slots=True)
class NodeDevices:
    """`mtu` is the underlay's; `overlay_bytes` what the tunnel's headers take of it. Without a tunnel both are 0."""

    underlay_name: str
    underlay_ifindex: int
    tunnel_ifindex: int
    mtu: int
    overlay_bytes: int


class NoUnderlay(Exception):
    """No interface has the node's addresses, or the one that has them does not do."""


class _StillProbed(NoUnderlay):
    """Another host may have the address: the kernel is asking."""


def overlay_bytes(node_ips: Sequence[int]) -> int:
    """Outer IP + UDP + VXLAN + inner Ethernet. The outer family is IPv4 where the node has it."""
    return (40 if all(map(is_ipv6, node_ips)) else 20) + 8 + 8 + 14


async def apply_node_devices(
    session: NetlinkSession, node_ips: Sequence[int], tunnel_port: int, mtu: int
) -> NodeDevices:
    """Idempotent. `node_ips`: one per family, IPv4 first. `tunnel_port` 0: no tunnel. `mtu` 0: the underlay's. Raises
    NoUnderlay; OSError."""
    deadline = asyncio.get_running_loop().time() + _DAD_S
    while True:
        try:
            return await session.run(lambda ipr: _apply(ipr, node_ips, tunnel_port, mtu))
        except _StillProbed:  # of a node that has just booted
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(_DAD_STEP_S)


def _apply(ipr: Any, node_ips: Sequence[int], tunnel_port: int, mtu: int) -> NodeDevices:
    underlay = _find_underlay(ipr, node_ips)
    mtu = mtu or int(underlay.get_attr("IFLA_MTU"))
    header = overlay_bytes(node_ips) if tunnel_port else 0
    if any(map(is_ipv6, node_ips)) and mtu - header < _IPV6_MTU_MIN:
        raise NoUnderlay(
            f"the underlay's MTU of {mtu} leaves {mtu - header} bytes to pods, and IPv6 needs {_IPV6_MTU_MIN}"
        )
    tunnel = _apply_tunnel(ipr, node_ips, tunnel_port, mtu - header) if tunnel_port else 0
    return NodeDevices(str(underlay.get_attr("IFLA_IFNAME")), int(underlay["index"]), tunnel, mtu, header)


async def remove_tunnel(session: NetlinkSession) -> None:
    """Of an agent before this one that had another routing mode. Idempotent."""
    await session.run(_remove_tunnel)


def _remove_tunnel(ipr: Any) -> None:
    link = find_link(ipr, TUNNEL)
    if link is not None:
        with tolerate(*GONE):
            ipr.link("del", index=link["index"])


def _find_underlay(ipr: Any, node_ips: Sequence[int]) -> Any:
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
        if address["flags"] & _DAD_FAILED:
            raise NoUnderlay(f"another host has the address {text} of this node too")
        if address["flags"] & _TENTATIVE:
            raise _StillProbed(f"the kernel has not yet found out whether another host has the address {text}")
        return int(address["index"])
    raise NoUnderlay(f"no interface of this node has the address {text}")


def _apply_tunnel(ipr: Any, node_ips: Sequence[int], port: int, mtu: int) -> int:
    link = find_link(ipr, TUNNEL)
    if link is not None and not _is_ours(link, port):
        with tolerate(*GONE):
            ipr.link("del", index=link["index"])
        link = None
    if link is None:
        ipr.link(
            "add", ifname=TUNNEL, kind="vxlan", vxlan_collect_metadata=1, vxlan_learning=0, vxlan_port=port, mtu=mtu
        )
        link = find_link(ipr, TUNNEL)
        assert link is not None
    quiet_link(TUNNEL)  # inner sources are reached by other ways than they came
    ipr.link("set", index=link["index"], address=tunnel_mac(format_ip(node_ips[0])).hex(":"), mtu=mtu, state="up")
    return int(link["index"])


def _is_ours(link: Any, port: int) -> bool:
    info = link.get_attr("IFLA_LINKINFO")
    data = info.get_attr("IFLA_INFO_DATA") if info is not None else None
    if data is None or info.get_attr("IFLA_INFO_KIND") != "vxlan":
        return False
    return bool(data.get_attr("IFLA_VXLAN_COLLECT_METADATA")) and data.get_attr("IFLA_VXLAN_PORT") == port
