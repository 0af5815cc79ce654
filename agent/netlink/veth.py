"""The pair of devices between a pod and its node.

  pod:   eth0, an address of each family (/32, /128), default routes via 169.254.1.1 and fe80::1, which are permanent
         neighbours with the MAC of the host's side
  node:  lxc<hash>, alias kilim:… (I7, agent/core/link.py), for each address a host route and a permanent neighbour
Easy to get wrong: the host's side stays down until `raise_host_side`, so that programs are attached before. No side
has a link-local address: nothing is announced, solicited or probed that would keep an address waiting.
"""

import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import structlog

from kilim.agent.core.gateway import DEFAULT_ROUTES, gateway_of, host_cidr
from kilim.agent.core.link import LocalLink, PodLink, is_link_name, parse_alias
from kilim.agent.netlink.namespaces import in_namespace
from kilim.agent.netlink.session import GONE, ROUTE_PROTOCOL, NetlinkSession, find_link, open_netlink, tolerate
from kilim.agent.netlink.sysctl import let_forward, quiet_link, switch_ipv6
from kilim.model.address import format_ip, host_length, is_ipv6
from kilim.model.mac import is_node_mac, node_mac, pod_mac

log = structlog.get_logger(__name__)

T = TypeVar("T")

_PERMANENT = 0x80
_SCOPE_LINK = 253
_RTPROT_STATIC = 4
_IFA_F_NODAD = 2


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

    async def route_again(self, links: Sequence[LocalLink], node_ips: Sequence[int]) -> None:
        """The kernel drops routes with an address that goes."""
        await self._session.run(lambda ipr: _route_again(ipr, links, node_ips))

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
            mac, pods = _text(node_mac(wanted.endpoint_id)), _text(pod_mac(wanted.endpoint_id))
            peer = {"ifname": wanted.ifname, "net_ns_fd": fd, "address": pods, "mtu": wanted.mtu}
            ipr.link("add", ifname=wanted.name, kind="veth", address=mac, mtu=wanted.mtu, peer=peer)
            link = find_link(ipr, wanted.name)
            assert link is not None
            ipr.link("set", index=link["index"], ifalias=wanted.alias)
    finally:
        os.close(fd)
    pod = (wanted.namespace, wanted.pod, wanted.container_id, wanted.endpoint_id)
    return LocalLink(wanted.name, int(link["index"]), *pod, wanted.ips)


def _raise_host_side(ipr: Any, wanted: PodLink) -> None:
    link = find_link(ipr, wanted.name)
    if link is None:
        raise OSError(errno.ENODEV, f"{wanted.name} is gone")
    index, mac = int(link["index"]), _text(pod_mac(wanted.endpoint_id))
    quiet_link(wanted.name)
    switch_ipv6(wanted.name, any(map(is_ipv6, wanted.ips)))
    let_forward(wanted.name)
    ipr.link("set", index=index, state="up")
    for ip in wanted.ips:
        ipr.neigh("replace", dst=format_ip(ip), lladdr=mac, ifindex=index, state=_PERMANENT)
    _route(ipr, index, wanted.ips, wanted.node_ips)


def _route(ipr: Any, index: int, ips: Sequence[int], node_ips: Sequence[int]) -> None:
    """The node's own way to a pod, with the node's address of the pod's family where it has one."""
    sources = {is_ipv6(ip): format_ip(ip) for ip in node_ips}
    for ip in ips:
        source = {"prefsrc": sources[is_ipv6(ip)]} if is_ipv6(ip) in sources else {}
        ipr.route("replace", dst=host_cidr(ip), oif=index, scope=_scope_link(ip), proto=ROUTE_PROTOCOL, **source)


def _route_again(ipr: Any, links: Sequence[LocalLink], node_ips: Sequence[int]) -> None:
    for link in links:
        with tolerate(*GONE, errno.ENETDOWN):  # what is not up yet gets its routes when it is
            _route(ipr, link.ifindex, link.ips, node_ips)


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
            raise OSError(errno.ENODEV, f"the pod has no {wanted.ifname}")
        index = int(link["index"])
        quiet_link(wanted.ifname)
        if any(map(is_ipv6, wanted.ips)):  # a runtime may have switched it off for every new namespace
            switch_ipv6("lo", True)
            switch_ipv6(wanted.ifname, True)
        ipr.link("set", index=index, state="up")
        for ip in wanted.ips:
            _configure_address(ipr, index, ip, wanted)


def _configure_address(ipr: Any, index: int, ip: int, wanted: PodLink) -> None:
    gateway, mac = gateway_of(ip), _text(node_mac(wanted.endpoint_id))
    flags = {"flags": _IFA_F_NODAD} if is_ipv6(ip) else {}
    ipr.addr("replace", index=index, address=format_ip(ip), prefixlen=host_length(ip), **flags)
    ipr.neigh("replace", dst=gateway, lladdr=mac, ifindex=index, state=_PERMANENT)
    to_gateway = f"{gateway}/{host_length(ip)}"
    ipr.route("replace", dst=to_gateway, oif=index, scope=_scope_link(ip), proto=_RTPROT_STATIC)
    ipr.route(
        "replace",
        dst=DEFAULT_ROUTES[is_ipv6(ip)],
        gateway=gateway,
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
        if link.get_attr("IFLA_ADDRESS") != _text(pod_mac(wanted.endpoint_id)):
            wrong.append(f"{wanted.ifname} has another MAC address")
        for ip in wanted.ips:
            wrong += _check_address(ipr, int(link["index"]), ip, wanted.ifname)
    return wrong


def _check_address(ipr: Any, index: int, ip: int, ifname: str) -> list[str]:
    wrong, gateway = [], gateway_of(ip)
    family = socket.AF_INET6 if is_ipv6(ip) else socket.AF_INET
    if format_ip(ip) not in {each.get_attr("IFA_ADDRESS") for each in ipr.get_addr(family=family, index=index)}:
        wrong.append(f"{ifname} does not have the address {format_ip(ip)}")
    if gateway not in {each.get_attr("RTA_GATEWAY") for each in ipr.get_default_routes(family=family)}:
        wrong.append(f"the pod's default route does not go to {gateway}")
    return wrong


def _has_link(ifname: str) -> bool:
    with open_netlink() as ipr:
        return find_link(ipr, ifname) is not None


def _scope_link(ip: int) -> int:
    return 0 if is_ipv6(ip) else _SCOPE_LINK  # IPv6 routes have no scope


def _text(mac: bytes) -> str:
    return mac.hex(":")
