"""Routes of the node's own stack to the pods of other nodes (pods themselves do not need them: the datapath knows).

Easy to get wrong: the pods' own host routes have our protocol number too; those have no gateway and are left alone.
"""

import errno
import socket
from collections.abc import Collection, Mapping
from typing import Any

from kilim.agent.core.node_routes import NodeRoute
from kilim.agent.netlink.library import NetlinkError
from kilim.agent.netlink.session import GONE, ROUTE_PROTOCOL, NetlinkSession, tolerate
from kilim.model.address import format_ip

_UNREACHABLE = 7  # RTN_UNREACHABLE
_LAST = 0xFFFF  # metric: after a route of somebody else to the same
# What the kernel says to a gateway that is not a neighbour on the underlay.
_NOT_ADJACENT = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL)


async def apply_node_routes(
    session: NetlinkSession, wanted: Mapping[str, NodeRoute], underlay: int, allow_delete: bool
) -> list[str]:
    """Idempotent. Returns the CIDRs whose node is not a neighbour: nothing but the pods themselves reaches those."""
    return await session.run(lambda ipr: _apply(ipr, wanted, underlay, allow_delete))


def _apply(ipr: Any, wanted: Mapping[str, NodeRoute], underlay: int, allow_delete: bool) -> list[str]:
    present = _read(ipr)
    unreachable = []
    for cidr, route in wanted.items():
        if present.get(cidr) == (format_ip(route.gateway), format_ip(route.source), underlay):
            continue
        try:
            ipr.route(
                "replace",
                dst=cidr,
                gateway=format_ip(route.gateway),
                oif=underlay,
                proto=ROUTE_PROTOCOL,
                prefsrc=format_ip(route.source),
            )
        except NetlinkError as error:
            if error.code not in _NOT_ADJACENT:
                raise
            unreachable.append(cidr)
    if allow_delete:
        for cidr in present.keys() - wanted.keys():
            with tolerate(*GONE):
                ipr.route("del", dst=cidr, proto=ROUTE_PROTOCOL)
    return unreachable


def _read(ipr: Any) -> dict[str, tuple[str, str, int]]:
    """CIDR to gateway, source and device, of our routes that have a gateway."""
    found = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        for route in ipr.get_routes(family=family, proto=ROUTE_PROTOCOL):
            gateway = route.get_attr("RTA_GATEWAY")
            if gateway is not None and route["proto"] == ROUTE_PROTOCOL:
                cidr = f"{route.get_attr('RTA_DST')}/{route['dst_len']}"
                found[cidr] = (gateway, route.get_attr("RTA_PREFSRC"), route.get_attr("RTA_OIF"))
    return found


async def apply_own_cidrs(session: NetlinkSession, cidrs: Collection[str], allow_delete: bool) -> None:
    """That addresses in them are unreachable, but for those of pods, whose routes are longer. Idempotent."""
    await session.run(lambda ipr: _apply_own(ipr, cidrs, allow_delete))


def _apply_own(ipr: Any, cidrs: Collection[str], allow_delete: bool) -> None:
    present = {
        f"{route.get_attr('RTA_DST')}/{route['dst_len']}"
        for family in (socket.AF_INET, socket.AF_INET6)
        for route in ipr.get_routes(family=family, proto=ROUTE_PROTOCOL)
        if route["proto"] == ROUTE_PROTOCOL and route["type"] == _UNREACHABLE
    }
    for cidr in set(cidrs) - present:
        with tolerate(errno.EEXIST):
            ipr.route("add", dst=cidr, type=_UNREACHABLE, proto=ROUTE_PROTOCOL, priority=_LAST)
    if allow_delete:
        for cidr in present - set(cidrs):
            with tolerate(*GONE):
                ipr.route("del", dst=cidr, type=_UNREACHABLE, proto=ROUTE_PROTOCOL, priority=_LAST)
