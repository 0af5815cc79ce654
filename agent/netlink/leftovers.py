"""What agents have made of links, routes and rules in this namespace, found without memory (I7), to take it away.

Easy to get wrong: routes and neighbours over a link of ours end with it, so links go first and the rest is read after.
"""

import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kilim.agent.core.link import is_link_name, parse_alias
from kilim.agent.netlink.node import TUNNEL
from kilim.agent.netlink.session import GONE, ROUTE_PROTOCOL, open_netlink, tolerate
from kilim.model.mac import is_node_mac

_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Leftover(NamedTuple):
    what: str
    remove: Callable[[], None]


def read_leftovers() -> Iterator[Leftover]:
    """One after the other; whoever wants them gone removes each before asking for the next. Of the calling thread's
    namespace."""
    with open_netlink() as ipr:
        yield from _links(ipr)
        yield from _rules(ipr)
        yield from _routes(ipr)


def _links(ipr: Any) -> Iterator[Leftover]:
    for link in ipr.get_links():
        name, index = link.get_attr("IFLA_IFNAME"), int(link["index"])
        if what := _whose(link, name):
            yield Leftover(f"{what} {name}", lambda index=index: _tolerant(ipr.link, "del", index=index))  # type: ignore[misc]


def _whose(link: Any, name: str) -> str:
    """Empty: not ours."""
    alias, mac = link.get_attr("IFLA_IFALIAS") or "", link.get_attr("IFLA_ADDRESS") or ""
    local = parse_alias(name, int(link["index"]), alias)
    if local is not None:
        return f"link of pod {local.key},"
    if is_link_name(name) and not alias and is_node_mac(bytes.fromhex(mac.replace(":", ""))):
        return "unfinished link of a pod,"
    info = link.get_attr("IFLA_LINKINFO")
    kind = info.get_attr("IFLA_INFO_KIND") if info is not None else None
    return "tunnel" if name == TUNNEL and kind == "vxlan" else ""


def _rules(ipr: Any) -> Iterator[Leftover]:
    for family in _FAMILIES:
        for rule in ipr.get_rules(family=family):
            if rule.get_attr("FRA_PROTOCOL") == ROUTE_PROTOCOL:
                priority, table = rule.get_attr("FRA_PRIORITY"), rule.get_attr("FRA_TABLE")
                named = {"family": family, "priority": priority, "table": table, "protocol": ROUTE_PROTOCOL}
                yield Leftover(f"rule {priority}", lambda named=named: _tolerant(ipr.rule, "del", **named))  # type: ignore[misc]


def _routes(ipr: Any) -> Iterator[Leftover]:
    for family in _FAMILIES:
        for route in ipr.get_routes(family=family, proto=ROUTE_PROTOCOL):
            if route["proto"] == ROUTE_PROTOCOL:
                destination = (
                    f"{route.get_attr('RTA_DST') or ('0.0.0.0', '::')[family != socket.AF_INET]}/{route['dst_len']}"
                )
                named = {"family": family, "dst": destination, "table": route.get_attr("RTA_TABLE")}
                named |= {"proto": ROUTE_PROTOCOL, "oif": route.get_attr("RTA_OIF"), "type": route["type"]}
                wanted = {name: value for name, value in named.items() if value is not None}
                yield Leftover(f"route {destination}", lambda wanted=wanted: _tolerant(ipr.route, "del", **wanted))  # type: ignore[misc]


def _tolerant(call: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    with tolerate(*GONE):
        call(*arguments, **named)
