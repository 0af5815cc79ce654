"""Same-node acceleration: real sockets of pods on a node. What has gone from socket to socket is told by this, that the
pods' devices are down meanwhile."""

import fcntl
import hashlib
import os
import random
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kilim.agent.bpf import syscall
from kilim.agent.bpf.datapath import Datapath, remove_all
from kilim.agent.pod_namespaces import _own_cookie
from kilim.agent.records import FORWARDED, decode_records
from kilim.model.address import format_ip, is_ipv6
from kilim.model.mac import pod_mac
from kilim.model.tables import ALLOW, DENY, EndpointValue, PolicyRows, TablesDelta
from tests.kernel.frames import FAMILY
from tests.kernel.rig import EGRESS, INGRESS, row
from tests.kernel.wire import Namespace, Pod, Wire, both

PORT = 5000
MIB = 1 << 20
UNREAD_MAX = 1 * MIB
_PERMANENT = 0x80
DENY_RULE = 181


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


@pytest.fixture
def wire(bpf_root: Path) -> Iterator[Wire]:
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


def test_between_pods_of_a_node_no_device_is_needed(family: str, wire: Wire) -> None:
    datapath = wire.datapaths[0]
    with Ends(wire, wire.b) as ends:
        before = {(each.reason, each.direction): each.packets for each in datapath.counters()}
        assert passes_directly(wire, ends)
        after = {(each.reason, each.direction): each.packets for each in datapath.counters()}
    for direction in (INGRESS, EGRESS):
        assert after[FORWARDED, direction] == before[FORWARDED, direction] + 2, "each write counts as a packet"
    records = list(decode_records(datapath.events.read()))
    assert [(record.type, record.dst_port) for record in records] == [(1, PORT)], "the connection's record, as ever"


def test_an_ipv4_connection_of_an_ipv6_socket_is_one_of_ipv4(wire: Wire) -> None:
    made = partial(socket.create_server, ("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
    with wire.b.namespace.run(made) as listener:
        client = wire.a.namespace.connect(wire.b.end.ip, PORT)
        server, _ = listener.accept()
    with client, server:
        server.settimeout(2)
        with devices_down(wire):
            assert passes(client, server)


def test_connections_with_others_go_by_the_devices(family: str, wire: Wire) -> None:
    for server, client, device in ((wire.c, None, wire.a), (wire.a, wire.nodes[0].namespace, wire.a)):
        with Ends(wire, server, client, timeout_s=0.3) as ends:
            assert passes(ends.client, ends.server)
            with devices_down(wire, device):
                assert not passes(ends.client, ends.server)


def sockets_held(datapath: Datapath) -> int:
    assert datapath.sockops is not None
    return datapath.sockops.count()


def test_who_has_a_pods_address_elsewhere_is_not_that_pod(family: str, wire: Wire) -> None:
    """A namespace of somebody's own, with the addresses of both pods."""
    forger = Namespace()

    def both_addresses(ipr: Any) -> None:
        ipr.link("set", index=1, state="up")
        for pod in (wire.a, wire.b):
            for ip in both(pod.end):
                ipr.addr("add", index=1, address=format_ip(ip), prefixlen=128 if is_ipv6(ip) else 32)

    forger.netlink(both_addresses)
    with Ends(wire, wire.b) as ends:
        held = sockets_held(wire.datapaths[0])
        port = ends.client.getsockname()[1]
        with forger.listener(wire.b.end.ip, PORT) as listener:
            kind = socket.AF_INET6 if FAMILY.is_ipv6 else socket.AF_INET
            forged = forger.run(lambda: socket.socket(kind))
            forged.bind((format_ip(wire.a.end.ip), port))
            forged.connect((format_ip(wire.b.end.ip), PORT))
            other, _ = listener.accept()
            with forged, other:
                assert sockets_held(wire.datapaths[0]) == held == 2
                forged.sendall(b"what is not theirs")
                other.settimeout(2)
                assert other.recv(100) == b"what is not theirs"
                assert passes_directly(wire, ends)
    forger.close()


def test_a_verdict_that_turns_stops_it_and_one_that_turns_back_lets_it_go_on(family: str, wire: Wire) -> None:
    datapath, a, b = wire.datapaths[0], wire.a, wire.b
    set_policy(wire, b, {row(INGRESS, a.end.identity): ALLOW}, 20)
    with Ends(wire, b, timeout_s=0.5) as ends:
        assert passes_directly(wire, ends)
        set_policy(wire, b, {row(INGRESS, a.end.identity): DENY}, 30)
        datapath.events.read()
        ends.client.sendall(b"held back")
        with pytest.raises(TimeoutError):
            ends.server.recv(100)
        records = [record for record in decode_records(datapath.events.read()) if record.type == 2]
        assert {record.reason for record in records} == {DENY_RULE} and records[0].dst_port == PORT
        ends.server.sendall(b"this way too")
        with pytest.raises(TimeoutError):
            ends.client.recv(100)
        set_policy(wire, b, {row(INGRESS, a.end.identity): ALLOW}, 40)
        ends.client.settimeout(5)
        ends.server.settimeout(5)
        assert ends.server.recv(100) == b"held back" and ends.client.recv(100) == b"this way too"
        assert passes(ends.client, ends.server) and passes(ends.server, ends.client)
        with Ends(wire, b) as later:
            assert passes_directly(wire, later)


def test_a_change_that_is_not_about_it_does_not_end_it(family: str, wire: Wire) -> None:
    a, b = wire.a, wire.b
    set_policy(wire, b, {row(INGRESS, a.end.identity): ALLOW}, 20)
    with Ends(wire, b) as ends:
        set_policy(wire, b, {row(INGRESS, a.end.identity): ALLOW, row(INGRESS, 77): DENY}, 30)
        assert passes_directly(wire, ends)
        wire.datapaths[0].tables.write(TablesDelta(endpoints={0x7F000009: EndpointValue(9, 9)}), 31, {0x7F000009: 9})
        assert passes_directly(wire, ends)


def test_who_does_not_read_is_not_written_to_without_end(family: str, wire: Wire) -> None:
    with Ends(wire, wire.b) as ends:
        ends.client.setblocking(False)
        sent = 0
        with pytest.raises(BlockingIOError):
            while sent < 64 * MIB:
                sent += ends.client.send(bytes(65536))
        assert UNREAD_MAX <= sent < 16 * MIB
        got = 0
        while got < sent:
            got += len(ends.server.recv(MIB))
        ends.client.settimeout(2)
        assert passes(ends.client, ends.server)
        with devices_down(wire):
            assert passes(ends.server, ends.client), "the other way has its own queue"


def test_a_mib_waits_at_the_other_end_without_a_device(family: str, wire: Wire) -> None:
    with Ends(wire, wire.b) as ends, devices_down(wire):
        for _ in range(UNREAD_MAX // 65536):
            ends.client.sendall(bytes(65536))
        got = 0
        while got < UNREAD_MAX:
            got += len(ends.server.recv(MIB))
        assert passes(ends.client, ends.server)


class _Stream(threading.Thread):
    """Bytes one way, in pieces of many sizes; whether what comes is what was sent."""

    def __init__(self, sender: socket.socket, receiver: socket.socket, seed: int, total: int) -> None:
        super().__init__()
        self._ends = sender, receiver
        self._random = random.Random(seed)
        self._total = total
        self.digests: list[str] = []

    def run(self) -> None:
        reading = threading.Thread(target=self._read)
        reading.start()
        digest, left = hashlib.blake2b(), self._total
        while left:
            size = min(left, self._random.choice((1, 7, 100, 1000, 5000, 40_000, 200_000)))
            piece = self._random.randbytes(size)
            digest.update(piece)
            self._ends[0].sendall(piece)
            left -= size
        reading.join()
        self.digests.append(digest.hexdigest())

    def _read(self) -> None:
        digest, left = hashlib.blake2b(), self._total
        while left and (got := self._ends[1].recv(min(left, 1 << 17))):
            digest.update(got)
            left -= len(got)
        self.digests.append(digest.hexdigest())


def test_the_order_of_bytes_is_kept_whichever_way_they_go(family: str, wire: Wire) -> None:
    """While policies change that are about it and that are not, so that it goes now this way and now that."""
    a, b, revision = wire.a, wire.b, 20
    set_policy(wire, b, {row(INGRESS, a.end.identity): ALLOW}, revision)
    with Ends(wire, b, timeout_s=20) as ends:
        streams = [
            _Stream(ends.client, ends.server, 1, 24 * MIB),
            _Stream(ends.server, ends.client, 2, 24 * MIB),
        ]
        for stream in streams:
            stream.start()
        changes = 0
        while any(stream.is_alive() for stream in streams) and changes < 400:
            changes, revision = changes + 1, revision + 1
            word = DENY if changes % 4 == 0 else ALLOW
            set_policy(wire, b, {row(INGRESS, a.end.identity): word, row(INGRESS, 900 + changes): DENY}, revision)
        set_policy(wire, b, {row(INGRESS, a.end.identity): ALLOW}, revision + 1)
        for stream in streams:
            stream.join(30)
        assert [stream.digests[0] == stream.digests[1] for stream in streams] == [True, True]
        assert passes(ends.client, ends.server) and passes(ends.server, ends.client)


def _waits_in(of: socket.socket, request: int) -> int:
    return int(struct.unpack("i", fcntl.ioctl(of, request, bytes(4)))[0])


def test_who_waits_for_the_rest_of_what_came_by_a_device_gets_it(family: str, wire: Wire) -> None:
    """The kernel lets that reader look for nothing that came from socket to socket."""
    a, b = wire.a, wire.b
    set_policy(wire, b, {row(INGRESS, a.end.identity): ALLOW}, 20)
    with Ends(wire, b) as ends:
        set_policy(wire, b, {row(INGRESS, a.end.identity): DENY}, 30)
        ends.client.sendall(b"some")
        set_policy(wire, b, {row(INGRESS, a.end.identity): ALLOW}, 40)
        ends.server.settimeout(None)
        ends.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", 5, 0))
        got: list[bytes] = []
        reading = threading.Thread(target=lambda: got.append(ends.server.recv(12, socket.MSG_WAITALL)))
        reading.start()
        deadline = time.monotonic() + 4
        while _waits_in(ends.client, termios.TIOCOUTQ) or _waits_in(ends.server, termios.FIONREAD):
            assert time.monotonic() < deadline
        ends.client.sendall(b"the rest")
        reading.join()
        assert got == [b"somethe rest"]


def test_who_has_said_that_it_ends_writes_no_more(family: str, wire: Wire) -> None:
    with Ends(wire, wire.b) as ends:
        assert passes_directly(wire, ends)
        ends.client.shutdown(socket.SHUT_WR)
        assert ends.server.recv(100) == b""
        with pytest.raises(BrokenPipeError):
            ends.client.send(b"too late")
        with devices_down(wire):
            assert passes(ends.server, ends.client), "the other end has not"


def test_a_namespace_that_outlives_its_pod_writes_to_nobody_directly(family: str, wire: Wire) -> None:
    sockops = wire.datapaths[0].sockops
    assert sockops is not None
    with Ends(wire, wire.b, timeout_s=0.3) as ends:
        assert passes_directly(wire, ends)
        sockops.write_namespace(both(wire.a.end), wire.c.namespace.run(_own_cookie))
        with devices_down(wire):
            assert passes(ends.server, ends.client) and not passes(ends.client, ends.server)


def test_a_connection_that_was_forgotten_goes_by_the_devices(family: str, wire: Wire) -> None:
    with Ends(wire, wire.b) as ends:
        assert passes_directly(wire, ends)
        connections = wire.datapaths[0].maps["ct"]
        connections.delete(connections.read()[0])
        assert passes(ends.client, ends.server) and passes(ends.server, ends.client)
        assert len(connections.read()[0]) == 1, "judged and entered again"


def test_its_end_is_tcps(family: str, wire: Wire) -> None:
    with Ends(wire, wire.b) as ends:
        ends.client.sendall(b"last words")
        ends.client.shutdown(socket.SHUT_WR)
        assert ends.server.recv(100) == b"last words" and ends.server.recv(100) == b""
        ends.server.sendall(b"understood")
        ends.server.close()
        assert ends.client.recv(100) == b"understood" and ends.client.recv(100) == b""
    with Ends(wire, wire.b) as ends:
        ends.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        ends.client.close()
        with pytest.raises(ConnectionResetError):
            ends.server.recv(100)
    with Ends(wire, wire.b) as ends:
        ends.server.close()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(10):
                ends.client.sendall(b"anybody?")
                ends.client.recv(100)


def test_fast_open_is_left_alone(family: str, wire: Wire) -> None:
    for pod in (wire.a, wire.b):
        pod.namespace.run(lambda: Path("/proc/sys/net/ipv4/tcp_fastopen").write_text(str(0x1 | 0x2 | 0x4 | 0x200)))
    kind = socket.AF_INET6 if FAMILY.is_ipv6 else socket.AF_INET
    with wire.b.namespace.listener(wire.b.end.ip, PORT) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
        client = wire.a.namespace.run(lambda: socket.socket(kind))
        with client:
            sent = client.sendto(b"first ", socket.MSG_FASTOPEN, (format_ip(wire.b.end.ip), PORT))
            assert sent == 6
            client.sendall(b"second")
            server, _ = listener.accept()
            with server:
                server.settimeout(2)
                got = b""
                while len(got) < 12:
                    got += server.recv(100)
                assert got == b"first second"


def test_a_start_over_the_same_maps_changes_nothing(family: str, wire: Wire) -> None:
    with Ends(wire, wire.b) as ends:
        wire.datapaths[0].close()
        assert passes_directly(wire, ends)
        wire.datapaths[0] = wire.nodes[0].load(sockops=True)
        wire.nodes[0].attach(wire.datapaths[0])
        accelerate(wire.datapaths[0])
        assert passes_directly(wire, ends)
        with Ends(wire, wire.b) as later:
            assert passes_directly(wire, later)


def test_a_start_over_other_maps_or_without_it_sends_what_is_open_by_the_devices(family: str, wire: Wire) -> None:
    for settings in ({"sockops": True, "ct_max_entries": 8192}, {"sockops": False}):
        with Ends(wire, wire.b, timeout_s=0.5) as ends:
            ends.client.sendall(b"not read yet")
            wire.datapaths[0].close()
            wire.datapaths[0] = wire.nodes[0].load(**settings)
            wire.nodes[0].attach(wire.datapaths[0])
            accelerate(wire.datapaths[0])
            assert ends.server.recv(100) == b"not read yet", "what lies in the queue of a socket is not lost"
            assert passes(ends.client, ends.server) and passes(ends.server, ends.client)
            with devices_down(wire):
                assert not passes(ends.client, ends.server)
    assert not (wire.nodes[0].root / "sockops").exists()


def test_programs_are_gone_when_all_is_removed(wire: Wire) -> None:
    for of in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        wire.nodes[0].namespace.run(partial(Path(f"/proc/sys/net/{of}").write_text, "1"))
    with Ends(wire, wire.b) as ends:
        ends.client.sendall(b"not read yet")
        wire.nodes[0].namespace.run(partial(remove_all, wire.nodes[0].root))
        assert ends.server.recv(100) == b"not read yet"
        assert passes(ends.client, ends.server), "the kernel's own way"
    assert not wire.nodes[0].root.exists()
    wire.datapaths[0].close()
    wire.datapaths[0] = wire.nodes[0].load()


def test_links_are_of_the_cgroup_and_of_the_map(wire: Wire) -> None:
    links = wire.nodes[0].root / "sockops"
    types = []
    for pin in sorted(links.iterdir()):
        fd = syscall.open_pinned(pin)
        types.append(syscall.link_info(fd).type)
        os.close(fd)
    assert types == [3, 14], "BPF_LINK_TYPE_CGROUP, BPF_LINK_TYPE_SOCKMAP"
