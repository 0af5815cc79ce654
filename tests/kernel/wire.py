"""Two nodes with pods in nameless network namespaces, joined by a veth pair and vxlan. A namespace lives as long as
somebody holds its descriptor, so nothing can stay behind."""

import ctypes
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyroute2

from kilim.agent.bpf.datapath import Datapath, Settings, load_objects, remove_all
from kilim.agent.bpf.hooks import AttachMode
from kilim.agent.bpf.syscall import LinkInfo
from kilim.model.address import format_ip, host_length, is_ipv6, parse_ip, without_host_bits
from kilim.model.mac import node_mac, pod_mac
from kilim.model.tables import EndpointValue, TablesDelta
from tests.kernel.frames import FAMILY, End, ipv6_like

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

GATEWAYS = ("169.254.7.1", "fe80::1")
PORT = 8472
MTU = 1500
OVERHEAD = {"IPv4": 50, "IPv6": 70}  # of the tunnel, by the family of the outer packets
_NO_DAD = 2  # IFA_F_NODAD
_PERMANENT = 0x80


def _in_thread(work: Callable[[], T]) -> T:
    answers: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answers[0]


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Namespace:
    def __init__(self) -> None:
        def unshare() -> int:
            if _libc.unshare(_CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY)

        self.fd = _in_thread(unshare)

    def run(self, work: Callable[[], T]) -> T:
        """In a thread of its own; sockets that it opens stay in the namespace."""

        def enter() -> T:
            _setns(self.fd)
            return work()

        return _in_thread(enter)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """By this thread, which goes back afterwards."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _setns(self.fd)
        try:
            yield
        finally:
            _setns(before)
            os.close(before)

    def netlink(self, work: Callable[[Any], T]) -> T:
        def with_route() -> T:
            with pyroute2.IPRoute() as ipr:  # type: ignore[attr-defined,no-untyped-call]
                return work(ipr)

        return self.run(with_route)

    def listener(self, ip: int, port: int) -> socket.socket:
        kind = socket.AF_INET6 if is_ipv6(ip) else socket.AF_INET
        return self.run(lambda: socket.create_server((format_ip(ip), port), family=kind))

    def connect(self, ip: int, port: int, timeout_s: float = 2) -> socket.socket:
        """Raises TimeoutError if the packets drop."""
        return self.run(lambda: socket.create_connection((format_ip(ip), port), timeout_s))

    def close(self) -> None:
        os.close(self.fd)


def _mac(octets: bytes) -> str:
    return ":".join(f"{octet:02x}" for octet in octets)


def _index(ipr: Any, name: str) -> int:
    return int(ipr.link_lookup(ifname=name)[0])


@dataclass
class Pod:
    end: End
    namespace: Namespace
    ifindex: int  # of the host's side
    name: str


def _host(ip: int) -> str:
    return f"{format_ip(ip)}/{host_length(ip)}"


def both(end: End) -> tuple[int, int]:
    """Its addresses, in any test."""
    return end.ipv4, ipv6_like(end.ipv4)


@dataclass
class Node:
    """Dual stack; `outer`: the family of the tunnels to it."""

    ipv4: int
    ipv6: int
    namespace: Namespace
    root: Path
    outer: str = "IPv4"
    settings: dict[str, Any] = field(default_factory=dict)  # of the programs, besides those that make the node
    underlay: int = 0
    tunnel: int = 0
    pods: list[Pod] = field(default_factory=list)

    @property
    def ip(self) -> int:
        return self.ipv6 if FAMILY.is_ipv6 else self.ipv4

    @property
    def tunnel_ip(self) -> int:
        return self.ipv6 if self.outer == "IPv6" else self.ipv4

    @property
    def tunnel_mtu(self) -> int:
        return MTU - OVERHEAD[self.outer]

    def set_up(self, ipr: Any) -> None:
        for name in ("all", "under"):  # neighbors are asked for by a link-local address, which waits for nobody here
            Path(f"/proc/sys/net/ipv6/conf/{name}/accept_dad").write_text("0")
        for name in ("lo", "under"):
            ipr.link("set", index=_index(ipr, name), state="up")
        self.underlay = _index(ipr, "under")
        for ip, prefix_len in ((self.ipv4, 24), (self.ipv6, 64)):
            ipr.addr("add", index=self.underlay, address=format_ip(ip), prefixlen=prefix_len, flags=_NO_DAD)
        options = {"vxlan_collect_metadata": 1, "vxlan_learning": 0, "vxlan_port": PORT, "mtu": self.tunnel_mtu}
        ipr.link("add", ifname="vx", kind="vxlan", **options)
        self.tunnel = _index(ipr, "vx")
        ipr.link("set", index=self.tunnel, state="up")

    def load(self, attach: AttachMode = "auto", **more: Any) -> Datapath:
        more = {"ct_max_entries": 4096, "events_bytes": 1 << 18, **self.settings, **more}
        settings = Settings(self.ipv4, self.underlay, self.tunnel, PORT, node_ipv6=self.ipv6, attach=attach, **more)
        return load_objects(settings, self.root)

    def attach(self, datapath: Datapath) -> None:
        def attach_all() -> None:
            datapath.attach_overlay(self.tunnel)
            datapath.attach_netdevs(self.underlay)
            for pod in self.pods:
                datapath.attach_endpoint(pod.ifindex, pod.name)

        self.namespace.run(attach_all)

    def links(self, datapath: Datapath) -> dict[str, LinkInfo]:
        return self.namespace.run(datapath.links)

    def add_pod(self, end: End) -> Pod:
        name = f"lxc{end.endpoint_id}"
        inside = Namespace()

        def make_pair(ipr: Any) -> int:
            peer = {"ifname": "eth0", "address": _mac(pod_mac(end.endpoint_id)), "net_ns_fd": inside.fd}
            ipr.link("add", ifname=name, kind="veth", address=_mac(node_mac(end.endpoint_id)), peer=peer)
            index = _index(ipr, name)
            ipr.link("set", index=index, state="up")
            for ip in both(end):
                lladdr = _mac(pod_mac(end.endpoint_id))
                ipr.neigh("add", dst=format_ip(ip), lladdr=lladdr, ifindex=index, state=_PERMANENT)
                ipr.route("add", dst=_host(ip), oif=index, scope=253)
            return index

        pod = Pod(end, inside, self.namespace.netlink(make_pair), name)
        inside.netlink(partial(_set_up_pod, end, self.tunnel_mtu))
        self.pods.append(pod)
        return pod


def _set_up_pod(end: End, mtu: int, ipr: Any) -> None:
    index = _index(ipr, "eth0")
    for ip in both(end):
        ipr.addr("add", index=index, address=format_ip(ip), prefixlen=host_length(ip), flags=_NO_DAD)
    for each in (_index(ipr, "lo"), index):
        ipr.link("set", index=each, state="up")
    for gateway, anywhere in zip(GATEWAYS, ("0.0.0.0/0", "::/0"), strict=True):
        ipr.neigh("add", dst=gateway, lladdr=_mac(node_mac(end.endpoint_id)), ifindex=index, state=_PERMANENT)
        ipr.route("add", dst=_host(parse_ip(gateway)), oif=index, scope=253)
        ipr.route("add", dst=anywhere, gateway=gateway, oif=index, metrics={"mtu": mtu})


class Wire:
    """node1: a, b; node2: c. Nothing is enforced. All are dual stack; `outer`: the family of the tunnel."""

    def __init__(self, root: Path, attach: AttachMode = "auto", outer: str = "IPv4", **settings: Any) -> None:
        self.nodes = [
            Node(
                *(parse_ip(f"192.168.7.{number}"), parse_ip(f"fd00:7::{number}"), Namespace()),
                *(root.with_name(f"{root.name}-{number}"), outer, settings),
            )
            for number in (1, 2)
        ]
        first, second = self.nodes
        first.namespace.netlink(
            lambda ipr: ipr.link(
                "add", ifname="under", kind="veth", peer={"ifname": "under", "net_ns_fd": second.namespace.fd}
            )
        )
        for node in self.nodes:
            node.namespace.netlink(node.set_up)
        self.a = first.add_pod(End(parse_ip("10.61.1.2"), 1001, 1))
        self.b = first.add_pod(End(parse_ip("10.61.1.3"), 1002, 2))
        self.c = second.add_pod(End(parse_ip("10.61.2.2"), 1003, 3))
        for ip, bits, gateway in zip(both(self.a.end), (24, 120), (first.ipv4, first.ipv6), strict=True):
            pods, by = f"{format_ip(without_host_bits(ip, bits))}/{bits}", format_ip(gateway)
            second.namespace.netlink(lambda ipr, dst=pods, to=by: ipr.route("add", dst=dst, gateway=to))
        self.datapaths = [node.load(attach) for node in self.nodes]
        for node, datapath in zip(self.nodes, self.datapaths, strict=True):
            node.attach(datapath)
            ifindexes = {ip: pod.ifindex for pod in node.pods for ip in both(pod.end)}
            datapath.tables.write(self._tables(node), 10, ifindexes)

    def _tables(self, here: Node) -> TablesDelta:
        delta = TablesDelta()
        for node in self.nodes:
            for ip in (node.ipv4, node.ipv6):
                delta.ipcache[ip, host_length(ip)] = (1 if node is here else 6, 0)
            for pod in node.pods:
                for ip in both(pod.end):
                    delta.ipcache[ip, host_length(ip)] = (pod.end.identity, 0 if node is here else node.tunnel_ip)
        for pod in here.pods:
            delta.endpoints |= dict.fromkeys(both(pod.end), EndpointValue(pod.end.endpoint_id, pod.end.identity))
        delta.subjects = {pod.end.identity: 0 for pod in here.pods}
        return delta

    def close(self) -> None:
        for node, datapath in zip(self.nodes, self.datapaths, strict=True):
            datapath.close()
            node.namespace.run(partial(remove_all, node.root))
            for namespace in (node.namespace, *(pod.namespace for pod in node.pods)):
                namespace.close()
