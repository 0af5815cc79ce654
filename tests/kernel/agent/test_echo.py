"""ICMP probes: what a socket of theirs takes in, and what not."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from kilim.agent.health.icmp import Echo, internet_checksum
from kilim.model.address import is_ipv6, parse_ip
from tests.kernel.wire import Namespace

REPLIES = {False: 0, True: 129}


class Inside:
    """A network namespace with a loopback device, as `Echo` wants it."""

    def __init__(self) -> None:
        self.namespace = Namespace()
        self.namespace.netlink(lambda ipr: ipr.link("set", index=1, state="up"))

    async def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        made = self.namespace.run(lambda: socket.socket(family, kind, protocol))
        made.setblocking(False)
        return made


@pytest.fixture
def inside() -> Iterator[Inside]:
    made = Inside()
    yield made
    made.namespace.close()


def reply(ipv6: bool, body: bytes) -> bytes:
    """Of an echo that nobody has sent."""
    plain = struct.pack("!BBHHH", REPLIES[ipv6], 0, 0, 0, 1) + body
    return plain if ipv6 else plain[:2] + struct.pack("!H", internet_checksum(plain)) + plain[4:]


@pytest.mark.parametrize("text", ["127.0.0.1", "::1"])
async def test_nobody_fills_the_socket_with_replies_of_his_own(inside: Inside, text: str) -> None:
    ip, ipv6 = parse_ip(text), is_ipv6(parse_ip(text))
    family, protocol = (socket.AF_INET6, 58) if ipv6 else (socket.AF_INET, 1)
    echo, anybody = Echo(inside, ipv6), await inside.socket(family, socket.SOCK_RAW, protocol)
    try:
        first = await echo.probe(ip, 5.0)
        assert not first.error
        taken = echo._socket
        assert taken is not None
        for body in (b"", b"1234567", bytes(12), os.urandom(12), os.urandom(1000)):
            while received(anybody):
                pass
            anybody.sendto(reply(ipv6, body), (text, 0))
            assert received(anybody).endswith(body), "it is delivered"
            assert not received(taken)
        assert not (await echo.probe(ip, 5.0)).error
    finally:
        echo.close()
        anybody.close()


def received(by: socket.socket) -> bytes:
    """Empty: nothing is there. On the loopback device what is sent is there at once."""
    try:
        return by.recv(2048)
    except BlockingIOError:
        return b""
