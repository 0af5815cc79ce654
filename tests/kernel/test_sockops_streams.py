"""What applications are promised of a stream, with acceleration as without: its bytes in order and its end."""

import fcntl
import hashlib
import random
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilim.model.address import format_ip
from kilim.model.tables import ALLOW, DENY
from tests.kernel.frames import FAMILY
from tests.kernel.rig import INGRESS, row
from tests.kernel.sockops import (
    MIB,
    PORT,
    UNREAD_MAX,
    Ends,
    accelerated,
    devices_down,
    passes,
    passes_directly,
    set_policy,
)
from tests.kernel.wire import Wire


@pytest.fixture
def wire(bpf_root: Path) -> Iterator[Wire]:
    with accelerated(bpf_root) as made:
        yield made


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
