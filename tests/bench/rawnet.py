"""The floor to be measured against: pods of plain veths, the kernel's own routing, and its own VXLAN between two nodes.

podA ── veth ── node1 ── veth ── podB            same node
                  │ underlay, vxlan id 42
                node2 ── veth ── podC            across nodes
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from kilim.lab.names import NETNS_DIR
from kilim.lab.netns import create_netns, delete_netns, in_netns

_PREFIX = f"kilim_raw{os.getpid()}-"  # no name that a lab could have
_UNDERLAY = {"node1": "192.168.77.1", "node2": "192.168.77.2"}
_POD_NODE = {"podA": "node1", "podB": "node1", "podC": "node2"}
_POD_IP = {"podA": "10.77.1.2", "podB": "10.77.1.3", "podC": "10.77.2.2"}
_POD_CIDR = {"node1": "10.77.1.0/24", "node2": "10.77.2.0/24"}
_NAMESPACES = ("fabric", *_UNDERLAY, *_POD_NODE)
_TUNNEL_MTU = 1450


@dataclass(frozen=True, slots=True)
class RawNetwork:
    """Namespaces and addresses of the rival's pods."""

    def netns(self, name: str) -> Path:
        return NETNS_DIR / f"{_PREFIX}{name}"

    def ip(self, pod: str) -> str:
        return _POD_IP[pod]

    def build(self) -> None:
        for name in _NAMESPACES:
            create_netns(self.netns(name))
        for node in _UNDERLAY:
            self._cable(node, "under0", "fabric", node)
        self._run("fabric", _bridge)
        for node, ip in _UNDERLAY.items():
            self._run(node, lambda r, ip=ip: _address(r, "under0", ip, 24))  # type: ignore[misc]
            in_netns(self.netns(node), _forward)
        for pod, node in _POD_NODE.items():
            self._pod(pod, node)
        self._vxlan("node1", "node2")
        self._vxlan("node2", "node1")

    def remove(self) -> None:
        for name in _NAMESPACES:
            delete_netns(self.netns(name))

    def _run(self, name: str, work: Callable[[IPRoute], None]) -> None:
        def inside() -> None:
            with IPRoute() as route:
                work(route)

        in_netns(self.netns(name), inside)

    def _cable(self, one: str, one_link: str, other: str, other_link: str) -> None:
        def work(route: IPRoute) -> None:
            with open(self.netns(other), "rb") as there:
                peer = {"ifname": other_link, "net_ns_fd": there.fileno()}
                route.link("add", ifname=one_link, kind="veth", peer=peer)

        self._run(one, work)

    def _pod(self, pod: str, node: str) -> None:
        self._cable(node, f"v{pod}", pod, "eth0")
        gateway = _POD_CIDR[node].replace(".0/24", ".1")

        def node_side(route: IPRoute) -> None:
            index = _address(route, f"v{pod}", gateway, 32)
            route.route("add", dst=f"{_POD_IP[pod]}/32", oif=index, scope="link")

        def pod_side(route: IPRoute) -> None:
            index = _address(route, "eth0", _POD_IP[pod], 32)
            route.route("add", dst=f"{gateway}/32", oif=index, scope="link")
            route.route("add", dst="default", gateway=gateway, oif=index, metrics={"mtu": _TUNNEL_MTU})

        self._run(node, node_side)
        self._run(pod, pod_side)

    def _vxlan(self, node: str, other: str) -> None:
        def work(route: IPRoute) -> None:
            under = route.link_lookup(ifname="under0")[0]
            route.link(
                "add", ifname="vx0", kind="vxlan", vxlan_id=42, vxlan_port=8472, vxlan_link=under,
                vxlan_group=_UNDERLAY[other], vxlan_learning=0, mtu=_TUNNEL_MTU,
            )  # fmt: skip
            inner = _UNDERLAY[node].replace("192.168", "10.178")
            index = _address(route, "vx0", inner, 24)
            gateway = _UNDERLAY[other].replace("192.168", "10.178")
            route.route("add", dst=_POD_CIDR[other], gateway=gateway, oif=index)

        self._run(node, work)


def _bridge(route: IPRoute) -> None:
    route.link("add", ifname="underlay", kind="bridge")
    bridge = route.link_lookup(ifname="underlay")[0]
    route.link("set", index=bridge, state="up")
    for node in _UNDERLAY:
        route.link("set", index=route.link_lookup(ifname=node)[0], master=bridge, state="up")


def _address(route: IPRoute, link: str, ip: str, prefix_len: int) -> int:
    index = int(route.link_lookup(ifname=link)[0])
    route.addr("add", index=index, address=ip, prefixlen=prefix_len)
    route.link("set", index=index, state="up")
    return index


def _forward() -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
