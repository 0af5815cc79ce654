"""The pair of devices between a pod and its node.

  pod:   eth0, address /32, default via 169.254.1.1, which is a permanent neighbour with the MAC of the host's side
  node:  lxc<hash>, alias kilim:<namespace>/<pod>:<container id>:<ip> (I7), route <ip>/32 and a permanent neighbour
Easy to get wrong: the host's side stays down until `raise_host_side`, so that programs are attached before.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import structlog

from kilim.agent.core.link import LocalLink, PodLink, is_link_name, parse_alias
from kilim.agent.netlink.namespaces import in_namespace
from kilim.agent.netlink.session import GONE, ROUTE_PROTOCOL, NetlinkSession, find_link, open_netlink, tolerate
from kilim.model.address import format_ip
from kilim.model.mac import is_node_mac, node_mac, pod_mac

log = structlog.get_logger(__name__)

T = TypeVar("T")

GATEWAY = "169.254.1.1"
_PERMANENT = 0x80
_SCOPE_LINK = 253
_RTPROT_STATIC = 4


class PodLinks:
    """The node's pairs, through one session."""

    def __init__(self, session: NetlinkSession) -> None:
        self._session = session

    async def read(self) -> list[LocalLink]:
        """All of ours on this node that are whole."""
        return await self._session.run(_read)

    async def delete_unfinished(self) -> None:
        """Pairs whose maker ended before it could give them their alias. Only while nothing is created."""
        await self._session.run(_delete_unfinished)

    async def create(self, wanted: PodLink) -> LocalLink:
        """The pair, both ends down where it is new. Another pair of the same name is replaced."""
        return await self._session.run(lambda ipr: _create(ipr, wanted))

    async def configure(self, wanted: PodLink) -> None:
        """Address, routes and neighbour inside the pod. Idempotent. No packet passes before `raise_host_side`."""
        await self._session.run(lambda _: _inside(wanted, lambda: _configure_inside(wanted)))

    async def raise_host_side(self, wanted: PodLink) -> None:
        """Up, with route and neighbour towards the pod. Idempotent."""
        await self._session.run(lambda ipr: _raise_host_side(ipr, wanted))

    async def delete(self, name: str) -> None:
        """Idempotent; the pod's end, routes and neighbours go with it."""
        await self._session.run(lambda ipr: _delete(ipr, name))

    async def check(self, wanted: PodLink) -> list[str]:
        """What is not as it should be; empty when all is."""
        return await self._session.run(lambda ipr: _check(ipr, wanted))


def _read(ipr: Any) -> list[LocalLink]:
    found = []
    for link in ipr.get_links():
        alias = link.get_attr("IFLA_IFALIAS") or ""
        local = parse_alias(link.get_attr("IFLA_IFNAME"), int(link["index"]), alias)
        if local is not None:
            found.append(local)
    return found


def _delete_unfinished(ipr: Any) -> None:
    # The kernel takes no alias at a link's creation; the name and the MAC address tell until there is one (I7).
    for link in ipr.get_links():
        name, mac = link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_ADDRESS") or ""
        if (
            not link.get_attr("IFLA_IFALIAS")
            and is_link_name(name)
            and is_node_mac(bytes.fromhex(mac.replace(":", "")))
        ):
            log.warning("a pod's link was never finished; removed", link=name)
            with tolerate(*GONE):
                ipr.link("del", index=link["index"])


def _delete(ipr: Any, name: str) -> None:
    link = find_link(ipr, name)
    if link is not None:
        with tolerate(*GONE):
            ipr.link("del", index=link["index"])


def _create(ipr: Any, wanted: PodLink) -> LocalLink:
    fd = os.open(wanted.netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        link = find_link(ipr, wanted.name)
        if link is not None and not (
            link.get_attr("IFLA_IFALIAS") == wanted.alias and in_namespace(fd, lambda: _has_link(wanted.ifname))
        ):
            with tolerate(*GONE):
                ipr.link("del", index=link["index"])
            link = None
        if link is None:
            peer = {"ifname": wanted.ifname, "net_ns_fd": fd, "address": _text(pod_mac(wanted.ip)), "mtu": wanted.mtu}
            mac = _text(node_mac(wanted.ip))
            ipr.link("add", ifname=wanted.name, kind="veth", address=mac, mtu=wanted.mtu, peer=peer)
            link = find_link(ipr, wanted.name)
            assert link is not None
            ipr.link("set", index=link["index"], ifalias=wanted.alias)
    finally:
        os.close(fd)
    return LocalLink(wanted.name, int(link["index"]), wanted.namespace, wanted.pod, wanted.container_id, wanted.ip)


def _raise_host_side(ipr: Any, wanted: PodLink) -> None:
    link = find_link(ipr, wanted.name)
    if link is None:
        raise OSError(19, f"{wanted.name} is gone")
    index = int(link["index"])
    _quiet(wanted.name)
    ipr.link("set", index=index, state="up")
    ip = format_ip(wanted.ip)
    ipr.neigh("replace", dst=ip, lladdr=_text(pod_mac(wanted.ip)), ifindex=index, state=_PERMANENT)
    ipr.route(
        "replace",
        dst=f"{ip}/32",
        oif=index,
        scope=_SCOPE_LINK,
        proto=ROUTE_PROTOCOL,
        prefsrc=format_ip(wanted.node_ip),
    )


def _inside(wanted: PodLink, work: Callable[[], T]) -> T:
    fd = os.open(wanted.netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return in_namespace(fd, work)
    finally:
        os.close(fd)


def _configure_inside(wanted: PodLink) -> None:
    with open_netlink() as ipr:
        ipr.link("set", index=1, state="up")
        link = find_link(ipr, wanted.ifname)
        if link is None:
            raise OSError(19, f"the pod has no {wanted.ifname}")
        index = int(link["index"])
        ipr.addr("replace", index=index, address=format_ip(wanted.ip), prefixlen=32)
        ipr.link("set", index=index, state="up")
        ipr.neigh("replace", dst=GATEWAY, lladdr=_text(node_mac(wanted.ip)), ifindex=index, state=_PERMANENT)
        ipr.route("replace", dst=f"{GATEWAY}/32", oif=index, scope=_SCOPE_LINK, proto=_RTPROT_STATIC)
        ipr.route(
            "replace",
            dst="default",
            gateway=GATEWAY,
            oif=index,
            proto=_RTPROT_STATIC,
            metrics={"mtu": wanted.route_mtu},
        )


def _check(ipr: Any, wanted: PodLink) -> list[str]:
    link = find_link(ipr, wanted.name)
    if link is None:
        return [f"the node has no {wanted.name}"]
    wrong = [] if link["flags"] & 1 else [f"{wanted.name} is down"]
    try:
        return wrong + _inside(wanted, lambda: _check_inside(wanted))
    except OSError as error:
        return [*wrong, f"{wanted.netns}: {error.strerror}"]


def _check_inside(wanted: PodLink) -> list[str]:
    wrong = []
    with open_netlink() as ipr:
        link = find_link(ipr, wanted.ifname)
        if link is None:
            return [f"the pod has no {wanted.ifname}"]
        if not link["flags"] & 1:
            wrong.append(f"{wanted.ifname} is down")
        if link.get_attr("IFLA_ADDRESS") != _text(pod_mac(wanted.ip)):
            wrong.append(f"{wanted.ifname} has another MAC address")
        addresses = {a.get_attr("IFA_LOCAL") for a in ipr.get_addr(family=2, index=link["index"])}
        if format_ip(wanted.ip) not in addresses:
            wrong.append(f"{wanted.ifname} does not have the address {format_ip(wanted.ip)}")
        gateways = {r.get_attr("RTA_GATEWAY") for r in ipr.get_default_routes(family=2)}
        if GATEWAY not in gateways:
            wrong.append(f"the pod's default route does not go to {GATEWAY}")
    return wrong


def _has_link(ifname: str) -> bool:
    with open_netlink() as ipr:
        return find_link(ipr, ifname) is not None


def _quiet(name: str) -> None:
    """No IPv6 chatter of the host's side, and no look at which way a pod's address came from."""
    for setting, value in ((f"ipv6/conf/{name}/disable_ipv6", "1"), (f"ipv4/conf/{name}/rp_filter", "0")):
        path = Path("/proc/sys/net") / setting
        if path.exists():
            path.write_text(value)


def _text(mac: bytes) -> str:
    return mac.hex(":")
