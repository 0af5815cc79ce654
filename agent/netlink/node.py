"""The node's own devices: the tunnel that it makes, the underlay that it finds."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilim.agent.netlink.session import GONE, NetlinkSession, find_link, tolerate
from kilim.model.address import format_ip
from kilim.model.mac import node_mac

TUNNEL = "kilim_vxlan"
OVERLAY_BYTES = 50  # outer IPv4 + UDP + VXLAN + inner Ethernet


@dataclass(frozen=True, slots=True)
class NodeDevices:
    """`mtu` is the underlay's."""

    underlay_name: str
    underlay_ifindex: int
    tunnel_ifindex: int
    mtu: int


class NoUnderlay(Exception):
    """No interface has the node's address."""


async def apply_node_devices(session: NetlinkSession, node_ip: int, tunnel_port: int, mtu: int) -> NodeDevices:
    """Idempotent. `mtu` 0: the underlay's. Raises NoUnderlay; OSError."""
    return await session.run(lambda ipr: _apply(ipr, node_ip, tunnel_port, mtu))


def _apply(ipr: Any, node_ip: int, tunnel_port: int, mtu: int) -> NodeDevices:
    underlay = _find_underlay(ipr, node_ip)
    mtu = mtu or int(underlay.get_attr("IFLA_MTU"))
    tunnel = _apply_tunnel(ipr, node_ip, tunnel_port, mtu - OVERLAY_BYTES)
    _write_sysctl(f"net/ipv4/conf/{TUNNEL}/rp_filter", "0")  # inner sources are reached by other ways than they came
    return NodeDevices(str(underlay.get_attr("IFLA_IFNAME")), int(underlay["index"]), tunnel, mtu)


def _find_underlay(ipr: Any, node_ip: int) -> Any:
    text = format_ip(node_ip)
    for address in ipr.get_addr(family=2):
        if text in (address.get_attr("IFA_LOCAL"), address.get_attr("IFA_ADDRESS")):
            return ipr.get_links(address["index"])[0]
    raise NoUnderlay(f"no interface of this node has the address {text}")


def _apply_tunnel(ipr: Any, node_ip: int, port: int, mtu: int) -> int:
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
    mac = node_mac(node_ip).hex(":")
    ipr.link("set", index=link["index"], address=mac, mtu=mtu, state="up")
    return int(link["index"])


def _is_ours(link: Any, port: int) -> bool:
    info = link.get_attr("IFLA_LINKINFO")
    data = info.get_attr("IFLA_INFO_DATA") if info is not None else None
    if data is None or info.get_attr("IFLA_INFO_KIND") != "vxlan":
        return False
    return bool(data.get_attr("IFLA_VXLAN_COLLECT_METADATA")) and data.get_attr("IFLA_VXLAN_PORT") == port


def _write_sysctl(name: str, value: str) -> None:
    path = Path("/proc/sys") / name
    with contextlib.suppress(FileNotFoundError):
        if path.read_text().strip() != value:
            path.write_text(value)
