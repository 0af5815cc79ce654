"""One try of one probe: send from a socket that lives in the source's namespace, and see what comes back.

Sockets are opened by the hundred in one visit to a namespace and then driven by the main loop.
"""

import asyncio
import errno
import os
import random
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from kilim.lab.netns import in_netns
from kilim.lab.sctp import ABORT, INIT_ACK, IPPROTO_SCTP, decode_sctp, encode_init

_KINDS = {
    "TCP": (socket.SOCK_STREAM, 0),
    "UDP": (socket.SOCK_DGRAM, 0),
    "SCTP": (socket.SOCK_RAW, IPPROTO_SCTP),
    "ICMP": (socket.SOCK_RAW, socket.IPPROTO_ICMP),
}
_PAYLOAD = b"kilim"
_ICMP_REPLY = {8: 0, 13: 14, 128: 129}  # the last of ICMPv6
_SENDS = 3


class Seen(Enum):
    ANSWER = "answer"
    SILENCE = "silence"
    REJECTION = "rejection"


@dataclass(frozen=True, slots=True)
class Target:
    """What to try: `answerer` is who must answer, None where anybody may."""

    netns: Path
    ip: str
    port: int
    protocol: str
    answerer: str | None

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.ip


@dataclass(frozen=True, slots=True)
class Attempt:
    seen: Seen
    detail: str = ""  # who answered, or the error
    source_ip: str = ""
    source_port: int = 0  # 0 where the protocol has none


@dataclass(frozen=True, slots=True)
class OpenProbe:
    target: Target
    handle: socket.socket
    number: int  # SCTP: the port; ICMP: the identifier

    def source(self) -> tuple[str, int]:
        try:
            ip, port = self.handle.getsockname()[:2]
        except OSError:
            return "", 0
        return ip, {"SCTP": self.number, "ICMP": 0}.get(self.target.protocol, port)


def open_probes(targets: Iterable[Target]) -> list[OpenProbe]:
    """In the order of `targets`; one visit to each namespace."""
    ordered = list(targets)
    opened: dict[int, OpenProbe] = {}
    for netns in {target.netns for target in ordered}:
        there = [(i, target) for i, target in enumerate(ordered) if target.netns == netns]
        opened |= in_netns(netns, lambda there=there: {i: _open(target) for i, target in there})  # type: ignore[misc]
    return [opened[i] for i in range(len(ordered))]


def _open(target: Target) -> OpenProbe:
    kind, protocol = _KINDS[target.protocol]
    if target.is_ipv6 and target.protocol == "ICMP":
        protocol = socket.IPPROTO_ICMPV6
    handle = socket.socket(socket.AF_INET6 if target.is_ipv6 else socket.AF_INET, kind, protocol)
    handle.setblocking(False)
    return OpenProbe(target, handle, random.randrange(20000, 60000))


async def attempt(probe: OpenProbe, timeout_s: float) -> Attempt:
    """Never raises for what the network does. Closes the socket."""
    run = {"TCP": _try_tcp, "UDP": _try_udp, "SCTP": _try_sctp, "ICMP": _try_icmp}[probe.target.protocol]
    try:
        async with asyncio.timeout(timeout_s):
            answerer = await run(probe, timeout_s / (_SENDS + 1))
        return Attempt(Seen.ANSWER, answerer, *probe.source())
    except TimeoutError:
        return Attempt(Seen.SILENCE, "", *probe.source())
    except OSError as error:
        return Attempt(Seen.REJECTION, os.strerror(error.errno or 0), *probe.source())
    finally:
        probe.handle.close()


async def _try_tcp(probe: OpenProbe, _: float) -> str:
    loop, target = asyncio.get_running_loop(), probe.target
    await loop.sock_connect(probe.handle, (target.ip, target.port))
    await loop.sock_sendall(probe.handle, _PAYLOAD)
    answer = await loop.sock_recv(probe.handle, 4096)
    if not answer:
        raise ConnectionResetError(errno.ECONNRESET, "closed without an answer")
    return _answerer(answer)


async def _try_udp(probe: OpenProbe, pause_s: float) -> str:
    loop, target = asyncio.get_running_loop(), probe.target
    probe.handle.connect((target.ip, target.port))

    async def send() -> None:
        await loop.sock_sendall(probe.handle, _PAYLOAD)

    return _answerer(await _repeat(send, loop.sock_recv(probe.handle, 4096), pause_s))


async def _try_sctp(probe: OpenProbe, pause_s: float) -> str:
    loop, target = asyncio.get_running_loop(), probe.target
    tag = random.getrandbits(32) | 1
    packet = encode_init(probe.number, target.port, tag)
    probe.handle.connect((target.ip, 0))

    async def send() -> None:
        await loop.sock_sendall(probe.handle, packet)

    async def receive() -> bytes:
        while True:
            seen = decode_sctp(await loop.sock_recv(probe.handle, 4096), with_ip_header=not target.is_ipv6)
            if seen is None or seen.destination_port != probe.number:
                continue
            if seen.chunk == ABORT:
                raise ConnectionRefusedError(errno.ECONNREFUSED, "ABORT")
            if seen.chunk == INIT_ACK:
                return seen.cookie

    return (await _repeat(send, receive(), pause_s)).decode()


async def _try_icmp(probe: OpenProbe, pause_s: float) -> str:
    loop, target = asyncio.get_running_loop(), probe.target
    probe.handle.connect((target.ip, 0))
    packet = _icmp_packet(target.port, probe.number)

    async def send() -> None:
        await loop.sock_sendall(probe.handle, packet)

    async def receive() -> bytes:
        while True:
            packet = await loop.sock_recv(probe.handle, 4096)
            header = 0 if target.is_ipv6 else (packet[0] & 0xF) * 4  # raw sockets of IPv6 give none
            kind, _, _, identifier = struct.unpack_from("!BBHH", packet, header)
            if kind == _ICMP_REPLY.get(target.port) and identifier == probe.number:
                return packet

    await _repeat(send, receive(), pause_s)
    return probe.target.answerer or ""  # the kernel answers, and it has no name


async def _repeat(send, answer, pause_s: float) -> bytes:  # type: ignore[no-untyped-def]
    """Sends up to three times while nothing has come: one lost packet is no verdict."""
    receiving = asyncio.ensure_future(answer)
    try:
        for _ in range(_SENDS):
            await send()
            done, _ = await asyncio.wait({receiving}, timeout=pause_s)
            if done:
                break
        return await receiving  # type: ignore[no-any-return]
    finally:
        receiving.cancel()


def _icmp_packet(kind: int, identifier: int) -> bytes:
    body = struct.pack("!BBHHH", kind, 0, 0, identifier, 1) + _PAYLOAD + b"\0" * 15
    total = sum(struct.unpack(f"!{len(body) // 2}H", body))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return body[:2] + struct.pack("!H", checksum) + body[4:]


def _answerer(answer: bytes) -> str:
    return answer.partition(b" ")[0].decode(errors="replace")
