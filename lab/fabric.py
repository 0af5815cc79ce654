"""The underlay of a lab: a bridge in a namespace of its own, and a cable from it to every member.

    node1            replica1           ext-web
    eth0             eth0               eth0          192.168.60.0/24, fd00:60::/64; externals their own addresses
     │ veth           │                  │
    [node1]─────────[replica1]─────────[ext-web]      ports of bridge `underlay` in namespace `fabric`

Nothing of it is visible in the machine's own namespace.
"""

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyroute2

from kilim.lab.names import fabric_port
from kilim.lab.netns import create_netns, in_netns
from kilim.lab.topology import UNDERLAY, UNDERLAY_IPV6, External, Lab, Node

BRIDGE = "underlay"
MEMBER_LINK = "eth0"
# Nobody has this address: frames to it vanish in the bridge as in a cut cable.
_NOWHERE = "02:00:00:00:de:ad"
_NUD_PERMANENT = 0x80


@dataclass(frozen=True, slots=True)
class Route:
    to: str
    via: str | None


@dataclass(frozen=True, slots=True)
class Member:
    """One namespace on the bridge."""

    role: str
    ips: tuple[str, ...]
    routes: tuple[Route, ...] = ()
    forwards: bool = False


def lab_members(lab: Lab) -> list[Member]:
    servers = [Member(server.name, (server.ip,)) for server in (*lab.etcd, *lab.replicas)]
    nodes = [_node_member(lab, node) for node in lab.nodes]
    return servers + nodes + [_external_member(lab, external) for external in lab.externals]


def _external_member(lab: Lab, external: External) -> Member:
    to_nodes = tuple(Route(_host(ip), None) for node in lab.nodes for ip in node.ips)
    return Member(f"ext-{external.name}", external.ips, to_nodes + _pod_routes(lab, lab.nodes))


def _node_member(lab: Lab, node: Node) -> Member:
    # As on any Kubernetes node the kernel forwards what the datapath leaves to it: traffic of pods with the outside.
    others = tuple(other for other in lab.nodes if other != node)
    to_externals = tuple(Route(_host(ip), None) for external in lab.externals for ip in external.ips)
    return Member(node.name, node.ips, to_externals + _pod_routes(lab, others), forwards=True)


def _pod_routes(lab: Lab, nodes: tuple[Node, ...]) -> tuple[Route, ...]:
    """The underlay knows the way to pods, as a cloud's route tables do; pods themselves speak by the tunnel."""
    if not lab.routed_pods:
        return ()
    return tuple(
        Route(cidr, ip) for node in nodes for cidr in node.pod_cidrs for ip in node.ips if (":" in ip) == (":" in cidr)
    )


def _host(ip: str) -> str:
    return f"{ip}/{128 if ':' in ip else 32}"


def create_fabric(lab: Lab) -> None:
    fabric = lab.netns("fabric")
    create_netns(fabric)
    members = lab_members(lab)
    for member in members:
        create_netns(lab.netns(member.role))
    in_netns(fabric, lambda: _build_bridge(lab, members))
    for member in members:
        in_netns(lab.netns(member.role), lambda m=member: _configure_member(m))  # type: ignore[misc]


def set_cable(lab: Lab, role: str, up: bool) -> None:
    """Pulls the cable of a member out of the fabric, or puts it back."""

    def work() -> None:
        with _netlink() as route:
            route.link("set", index=_index(route, fabric_port(role)), state="up" if up else "down")

    in_netns(lab.netns("fabric"), work)


Place = tuple[str, tuple[str, ...]]  # role, addresses


def cut_pair(lab: Lab, first: Place, second: Place) -> None:
    """Packets between the two vanish silently, as a neighbour entry sends them to nobody."""
    in_netns(lab.netns(first[0]), lambda: _set_neighbours(second[1], _NOWHERE))
    in_netns(lab.netns(second[0]), lambda: _set_neighbours(first[1], _NOWHERE))


def join_pair(lab: Lab, first: Place, second: Place) -> None:
    in_netns(lab.netns(first[0]), lambda: _set_neighbours(second[1], None))
    in_netns(lab.netns(second[0]), lambda: _set_neighbours(first[1], None))


def bring_up_loopback(netns: Path) -> None:
    def work() -> None:
        with _netlink() as route:
            route.link("set", index=_index(route, "lo"), state="up")

    in_netns(netns, work)


def _build_bridge(lab: Lab, members: list[Member]) -> None:
    with _netlink() as route:
        route.link("add", ifname=BRIDGE, kind="bridge")
        bridge = _index(route, BRIDGE)
        route.link("set", index=bridge, state="up")
        for member in members:
            port = fabric_port(member.role)
            with open(lab.netns(member.role), "rb") as there:
                peer = {"ifname": MEMBER_LINK, "net_ns_fd": there.fileno()}
                route.link("add", ifname=port, kind="veth", peer=peer)
            route.link("set", index=_index(route, port), master=bridge, state="up")


def _configure_member(member: Member) -> None:
    with _netlink() as route:
        route.link("set", index=_index(route, "lo"), state="up")
        link = _index(route, MEMBER_LINK)
        _write_sysctl(f"net/ipv6/conf/{MEMBER_LINK}/accept_dad", "0")  # an address can be used as soon as it is there
        for ip in member.ips:
            route.addr("add", index=link, address=ip, prefixlen=_prefix_len(ip))
        route.link("set", index=link, state="up")
        for entry in member.routes:
            if entry.via is not None:
                route.route("add", dst=entry.to, gateway=entry.via, oif=link, flags=["onlink"])
            elif ":" in entry.to:
                route.route("add", dst=entry.to, oif=link)
            else:
                route.route("add", dst=entry.to, oif=link, scope="link")
    if member.forwards:
        _write_sysctl("net/ipv4/ip_forward", "1")
        _write_sysctl("net/ipv6/conf/all/forwarding", "1")


def _prefix_len(ip: str) -> int:
    """Of externals, which are beyond the underlay, the address alone."""
    address = ipaddress.ip_address(ip)
    network = UNDERLAY if address.version == 4 else UNDERLAY_IPV6
    return network.prefixlen if address in network else address.max_prefixlen


def _write_sysctl(key: str, value: str) -> None:
    # /proc/sys/net shows the namespace of the thread that opens the file
    (Path("/proc/sys") / key).write_text(value)


def _set_neighbours(ips: tuple[str, ...], address: str | None) -> None:
    with _netlink() as route:
        link = _index(route, MEMBER_LINK)
        for ip in ips:
            family = socket.AF_INET6 if ":" in ip else socket.AF_INET
            if address is not None:
                route.neigh("replace", family=family, ifindex=link, dst=ip, lladdr=address, state="permanent")
                continue
            for entry in route.get_neighbours(family=family, ifindex=link, dst=ip):
                if entry["state"] == _NUD_PERMANENT:
                    route.neigh("del", family=family, ifindex=link, dst=ip)


def _netlink() -> Any:
    return pyroute2.IPRoute()  # type: ignore[attr-defined,no-untyped-call]


def _index(route: Any, name: str) -> int:
    found = route.link_lookup(ifname=name)
    if not found:
        raise LookupError(f"no link {name}")
    return int(found[0])
