"""Real sockets of pods on a node with same-node acceleration."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from kilim.agent.bpf.datapath import Datapath
from kilim.agent.pod_namespaces import _own_cookie
from kilim.model.address import format_ip, is_ipv6
from kilim.model.mac import pod_mac
from kilim.model.tables import PolicyRows, TablesDelta
from tests.kernel.wire import Namespace, Pod, Wire, both

PORT = 5000
MIB = 1 << 20
UNREAD_MAX = 1 * MIB
_PERMANENT = 0x80


class Ends:
    """A connection: the end that opened it, and the other."""

    def __init__(self, wire: Wire, server: Pod, client: Namespace | None = None, timeout_s: float = 2) -> None:
        namespace = client or wire.a.namespace
        with server.namespace.listener(server.end.ip, PORT) as listener:
            self.client = namespace.connect(server.end.ip, PORT)
            self.server, _ = listener.accept()
        self.client.settimeout(timeout_s)
        self.server.settimeout(timeout_s)

    def __enter__(self) -> "Ends":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.close()


@contextmanager
def accelerated(bpf_root: Path) -> Iterator[Wire]:
    made = Wire(bpf_root, sockops=True)
    try:
        for node, datapath in zip(made.nodes, made.datapaths, strict=True):
            accelerate(datapath)
            for pod in node.pods:
                assert datapath.sockops is not None
                datapath.sockops.write_namespace(both(pod.end), pod.namespace.run(_own_cookie))
        yield made
    finally:
        made.close()


def accelerate(datapath: Datapath) -> None:
    datapath.begin_takeover()
    datapath.attach_sockops(None)
    datapath.end_takeover()


@contextmanager
def devices_down(wire: Wire, *pods: Pod) -> Iterator[None]:
    def switch(state: str, ipr: Any) -> None:
        for pod in pods or (wire.a, wire.b):
            ipr.link("set", index=pod.ifindex, state=state)

    wire.nodes[0].namespace.netlink(partial(switch, "down"))
    try:
        yield
    finally:
        wire.nodes[0].namespace.netlink(partial(switch, "up"))
        wire.nodes[0].namespace.netlink(partial(_way_to, pods or (wire.a, wire.b)))


def _way_to(pods: tuple[Pod, ...], ipr: Any) -> None:
    """The kernel forgets routes and neighbors of a device that is down."""
    for pod in pods:
        mac = pod_mac(pod.end.endpoint_id).hex(":")
        for ip in both(pod.end):
            ipr.neigh("replace", dst=format_ip(ip), lladdr=mac, ifindex=pod.ifindex, state=_PERMANENT)
            ipr.route("replace", dst=f"{format_ip(ip)}/{128 if is_ipv6(ip) else 32}", oif=pod.ifindex, scope=253)


def passes(sender: socket.socket, receiver: socket.socket) -> bool:
    word = os.urandom(8)
    sender.sendall(word)
    try:
        return receiver.recv(100) == word
    except TimeoutError:
        return False


def passes_directly(wire: Wire, ends: Ends) -> bool:
    with devices_down(wire):
        return passes(ends.client, ends.server) and passes(ends.server, ends.client)


def set_policy(wire: Wire, pod: Pod, rows: PolicyRows, revision: int) -> None:
    delta = TablesDelta(subjects={pod.end.identity: 3}, policy={pod.end.identity: rows})
    wire.datapaths[0].tables.write(delta, revision, {})
