"""The node's own devices: the tunnel that it makes, the underlay that it finds."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kilim.agent.netlink.session import GONE, NetlinkSession, find_link, tolerate
from kilim.agent.netlink.sysctl import quiet_link
from kilim.agent.netlink.uplink import NoUnderlay, StillProbed, Uplink, look_for_uplink
from kilim.model.address import format_ip, is_ipv6
from kilim.model.mac import tunnel_mac

TUNNEL = "kilim_vxlan"

_DAD_S, _DAD_STEP_S = 5.0, 0.1
_IPV6_MTU_MIN = 1280  # RFC 8200, 5


@dataclass(frozen=True, slots=True)
class NodeDevices:
    """`mtu` is the underlay's, or what the settings say; `overlay_bytes` what the tunnel's headers take of it. Both
    are 0 without a tunnel."""

    underlay: Uplink
    tunnel_ifindex: int
    mtu: int
    overlay_bytes: int


def overlay_bytes(node_ips: Sequence[int]) -> int:
    """Outer IP + UDP + VXLAN + inner Ethernet. The outer family is IPv4 where the node has it."""
    return (40 if all(map(is_ipv6, node_ips)) else 20) + 8 + 8 + 14


def mtu_of(underlay: Uplink, tunnel: bool, mtu: int) -> tuple[int, int]:
    """The node's, and what the tunnel's headers take of it. `mtu` 0: the underlay's. Raises NoUnderlay."""
    mtu = mtu or underlay.mtu
    header = overlay_bytes(underlay.ips) if tunnel else 0
    if any(map(is_ipv6, underlay.ips)) and mtu - header < _IPV6_MTU_MIN:
        raise NoUnderlay(
            f"the underlay's MTU of {mtu} leaves {mtu - header} bytes to pods, and IPv6 needs {_IPV6_MTU_MIN}"
        )
    return mtu, header


async def apply_node_devices(
    session: NetlinkSession, node_ips: Sequence[int], tunnel_port: int, mtu: int, devices: Sequence[str] = ()
) -> NodeDevices:
    """Idempotent. `node_ips`: one per family, IPv4 first. `tunnel_port` 0: no tunnel. `mtu` 0: the underlay's. Raises
    NoUnderlay; OSError."""
    deadline = asyncio.get_running_loop().time() + _DAD_S
    while True:
        try:
            return await session.run(lambda ipr: _apply(ipr, node_ips, tunnel_port, mtu, devices))
        except StillProbed:  # of a node that has just booted
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(_DAD_STEP_S)


def _apply(ipr: Any, node_ips: Sequence[int], tunnel_port: int, mtu: int, devices: Sequence[str]) -> NodeDevices:
    underlay = look_for_uplink(ipr, node_ips, devices)
    mtu, header = mtu_of(underlay, bool(tunnel_port), mtu)
    tunnel = _apply_tunnel(ipr, node_ips, tunnel_port, mtu - header) if tunnel_port else 0
    return NodeDevices(underlay, tunnel, mtu, header)


async def remove_tunnel(session: NetlinkSession) -> None:
    """Of an agent before this one that had another routing mode. Idempotent."""
    await session.run(_remove_tunnel)


def _remove_tunnel(ipr: Any) -> None:
    link = find_link(ipr, TUNNEL)
    if link is not None:
        with tolerate(*GONE):
            ipr.link("del", index=link["index"])


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
