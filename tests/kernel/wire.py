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
from kilim.model.address import format_ip, parse_ip
from kilim.model.mac import node_mac, pod_mac
from kilim.model.tables import EndpointValue, TablesDelta
from tests.kernel.frames import End

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

GATEWAY = "169.254.7.1"
PORT = 8472


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
        return self.run(lambda: socket.create_server((format_ip(ip), port)))

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


@dataclass
class Node:
    ip: int
    namespace: Namespace
    root: Path
    underlay: int = 0
    tunnel: int = 0
    pods: list[Pod] = field(default_factory=list)

    def set_up(self, ipr: Any) -> None:
        for name in ("lo", "under"):
            ipr.link("set", index=_index(ipr, name), state="up")
        self.underlay = _index(ipr, "under")
        ipr.addr("add", index=self.underlay, address=format_ip(self.ip), prefixlen=24)
        ipr.link(
            "add", ifname="vx", kind="vxlan", vxlan_collect_metadata=1, vxlan_learning=0, vxlan_port=PORT, mtu=1450
        )
        self.tunnel = _index(ipr, "vx")
        ipr.link("set", index=self.tunnel, state="up")

    def load(self, attach: AttachMode = "auto") -> Datapath:
        settings = Settings(
            self.ip, self.underlay, self.tunnel, PORT, ct_max_entries=4096, events_bytes=1 << 18, attach=attach
        )
        return load_objects(settings, self.root)

    def attach(self, datapath: Datapath) -> None:
        def attach_all() -> None:
            datapath.attach_overlay(self.tunnel)
            datapath.attach_netdev(self.underlay)
            for pod in self.pods:
                datapath.attach_endpoint(pod.ifindex, pod.name)

        self.namespace.run(attach_all)

    def links(self, datapath: Datapath) -> dict[str, LinkInfo]:
        return self.namespace.run(datapath.links)

    def add_pod(self, end: End) -> Pod:
        name = f"lxc{end.endpoint_id}"
        ip, inside = format_ip(end.ip), Namespace()

        def make_pair(ipr: Any) -> int:
            peer = {"ifname": "eth0", "address": _mac(pod_mac(end.endpoint_id)), "net_ns_fd": inside.fd}
            ipr.link("add", ifname=name, kind="veth", address=_mac(node_mac(end.endpoint_id)), peer=peer)
            index = _index(ipr, name)
            ipr.link("set", index=index, state="up")
            ipr.neigh("add", dst=ip, lladdr=_mac(pod_mac(end.endpoint_id)), ifindex=index, state=0x80)
            ipr.route("add", dst=f"{ip}/32", oif=index, scope=253)
            return index

        def set_up_inside(ipr: Any) -> None:
            index = _index(ipr, "eth0")
            ipr.addr("add", index=index, address=ip, prefixlen=32)
            ipr.link("set", index=_index(ipr, "lo"), state="up")
            ipr.link("set", index=index, state="up")
            ipr.neigh("add", dst=GATEWAY, lladdr=_mac(node_mac(end.endpoint_id)), ifindex=index, state=0x80)
            ipr.route("add", dst=f"{GATEWAY}/32", oif=index, scope=253)
            ipr.route("add", dst="default", gateway=GATEWAY, oif=index, metrics={"mtu": 1450})

        pod = Pod(end, inside, self.namespace.netlink(make_pair), name)
        inside.netlink(set_up_inside)
        self.pods.append(pod)
        return pod


class Wire:
    """node1: a, b; node2: c. Nothing is enforced."""

    def __init__(self, root: Path, attach: AttachMode = "auto") -> None:
        self.nodes = [
            Node(parse_ip(f"192.168.7.{number}"), Namespace(), root.with_name(f"{root.name}-{number}"))
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
        second.namespace.netlink(lambda ipr: ipr.route("add", dst="10.61.1.0/24", gateway="192.168.7.1"))
        self.datapaths = [node.load(attach) for node in self.nodes]
        for node, datapath in zip(self.nodes, self.datapaths, strict=True):
            node.attach(datapath)
            datapath.tables.write(self._tables(node), 10, {pod.end.ip: pod.ifindex for pod in node.pods})

    def _tables(self, here: Node) -> TablesDelta:
        delta = TablesDelta()
        for node in self.nodes:
            delta.ipcache[node.ip, 32] = (1 if node is here else 6, 0)
            for pod in node.pods:
                delta.ipcache[pod.end.ip, 32] = (pod.end.identity, 0 if node is here else node.ip)
        delta.endpoints = {pod.end.ip: EndpointValue(pod.end.endpoint_id, pod.end.identity) for pod in here.pods}
        delta.subjects = {pod.end.identity: 0 for pod in here.pods}
        return delta

    def close(self) -> None:
        for node, datapath in zip(self.nodes, self.datapaths, strict=True):
            datapath.close()
            node.namespace.run(partial(remove_all, node.root))
            for namespace in (node.namespace, *(pod.namespace for pod in node.pods)):
                namespace.close()
