"""The floor to be measured against: pods of plain veths, the kernel's own routing, and its own VXLAN between two nodes.

podA ── veth ── node1 ── veth ── podB            same node
podT ── veth ──   │ underlay, vxlan id 42
                node2 ── veth ── podC            from podT, by the tunnel
                      ── veth ── podD            from podA, routed

Rivals that filter are such a network of their own, with their rules in node1.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pyroute2 import IPRoute

from kilim.lab.names import NETNS_DIR
from kilim.lab.netns import create_netns, delete_netns, in_netns

_PREFIX = f"kilim_raw{os.getpid()}"  # no name that a lab could have
UNDERLAY_LINK = "under0"
_HOSTS = {"node1": 1, "node2": 2}  # on the underlay, and within the tunnel
_UNDERLAY, _TUNNEL = ("192.168.77.", "fd00:77::"), ("10.178.77.", "fd00:178:77::")
_POD_NODE = {"podA": "node1", "podB": "node1", "podT": "node1", "podC": "node2", "podD": "node2"}
_POD_IPS = {
    "podA": ("10.77.1.2", "fd00:10:77:1::2"),
    "podB": ("10.77.1.3", "fd00:10:77:1::3"),
    "podT": ("10.77.4.2", "fd00:10:77:4::2"),
    "podC": ("10.77.2.2", "fd00:10:77:2::2"),
    "podD": ("10.77.3.2", "fd00:10:77:3::2"),
}
# How each node reaches pods of the other.
_BY_TUNNEL = {"node1": ("10.77.2.0/24", "fd00:10:77:2::/64"), "node2": ("10.77.4.0/24", "fd00:10:77:4::/64")}
_ROUTED = {"node1": ("10.77.3.0/24", "fd00:10:77:3::/64"), "node2": ("10.77.1.0/24", "fd00:10:77:1::/64")}
_GATEWAYS = ("169.254.1.1", "fe80::1")
_NAMESPACES = ("fabric", *_HOSTS, *_POD_NODE)
_TUNNEL_MTU = 1430
_NODAD = 2  # IFA_F_NODAD

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RawNetwork:
    """Namespaces and addresses of the rival's pods."""

    name: str = "raw"

    def netns(self, name: str) -> Path:
        return NETNS_DIR / f"{_PREFIX}{self.name}-{name}"

    def ips(self, pod: str) -> tuple[str, str]:
        return _POD_IPS[pod]

    def build(self) -> None:
        for name in _NAMESPACES:
            create_netns(self.netns(name))
        for node in _HOSTS:
            self._cable(node, UNDERLAY_LINK, "fabric", node)
        self.run("fabric", _bridge)
        for node in _HOSTS:
            in_netns(self.netns(node), _forward)
            self.run(node, lambda r, n=node: _address(r, UNDERLAY_LINK, _hosts(_UNDERLAY, n), (24, 64)))  # type: ignore[misc]
        for pod, node in _POD_NODE.items():
            self._pod(pod, node)
        for node, other in (("node1", "node2"), ("node2", "node1")):
            self._ways(node, other)

    def remove(self) -> None:
        for name in _NAMESPACES:
            delete_netns(self.netns(name))

    def run(self, name: str, work: Callable[[IPRoute], T]) -> T:
        def inside() -> T:
            with IPRoute() as route:
                return work(route)

        return in_netns(self.netns(name), inside)

    def _cable(self, one: str, one_link: str, other: str, other_link: str) -> None:
        def work(route: IPRoute) -> None:
            with open(self.netns(other), "rb") as there:
                peer = {"ifname": other_link, "net_ns_fd": there.fileno()}
                route.link("add", ifname=one_link, kind="veth", peer=peer)

        self.run(one, work)

    def _pod(self, pod: str, node: str) -> None:
        self._cable(node, node_link(pod), pod, "eth0")

        def node_side(route: IPRoute) -> None:
            index = _address(route, node_link(pod), _GATEWAYS, (32, 128))
            for ip in _POD_IPS[pod]:
                _on_link(route, ip, index)

        def pod_side(route: IPRoute) -> None:
            index = _address(route, "eth0", _POD_IPS[pod], (32, 128))
            for dst, gateway in zip(("0.0.0.0/0", "::/0"), _GATEWAYS, strict=True):
                _on_link(route, gateway, index)
                route.route("add", dst=dst, gateway=gateway, oif=index, metrics={"mtu": _TUNNEL_MTU})

        self.run(node, node_side)
        self.run(pod, pod_side)

    def _ways(self, node: str, other: str) -> None:
        def work(route: IPRoute) -> None:
            under = route.link_lookup(ifname=UNDERLAY_LINK)[0]
            route.link(
                "add", ifname="vx0", kind="vxlan", vxlan_id=42, vxlan_port=8472, vxlan_link=under,
                vxlan_group=_hosts(_UNDERLAY, other)[0], vxlan_learning=0, mtu=_TUNNEL_MTU,
            )  # fmt: skip
            tunnel = _address(route, "vx0", _hosts(_TUNNEL, node), (24, 64))
            for oif, dsts, hosts in ((tunnel, _BY_TUNNEL, _TUNNEL), (under, _ROUTED, _UNDERLAY)):
                for dst, gateway in zip(dsts[node], _hosts(hosts, other), strict=True):
                    route.route("add", dst=dst, gateway=gateway, oif=oif)

        self.run(node, work)


def node_link(pod: str) -> str:
    """The node's side of the pod's cable."""
    return f"v{pod}"


def _hosts(networks: tuple[str, str], node: str) -> tuple[str, str]:
    return f"{networks[0]}{_HOSTS[node]}", f"{networks[1]}{_HOSTS[node]}"


def _on_link(route: IPRoute, ip: str, index: int) -> None:
    if ":" in ip:
        route.route("add", dst=f"{ip}/128", oif=index)
    else:
        route.route("add", dst=f"{ip}/32", oif=index, scope="link")


def _bridge(route: IPRoute) -> None:
    route.link("add", ifname="underlay", kind="bridge")
    bridge = route.link_lookup(ifname="underlay")[0]
    route.link("set", index=bridge, state="up")
    for node in _HOSTS:
        route.link("set", index=route.link_lookup(ifname=node)[0], master=bridge, state="up")


def _address(route: IPRoute, link: str, ips: Iterable[str], prefix_lens: Iterable[int]) -> int:
    """Addresses that can be used as soon as they are there."""
    index = int(route.link_lookup(ifname=link)[0])
    for ip, prefix_len in zip(ips, prefix_lens, strict=True):
        flags = {"flags": _NODAD} if ":" in ip else {}
        route.addr("add", index=index, address=ip, prefixlen=prefix_len, **flags)
    route.link("set", index=index, state="up")
    return index


def _forward() -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
