"""ICMP and ICMPv6 echo over one raw socket of a namespace and a family.

Easy to get wrong: the socket sees the answers to everybody's echoes in its namespace, and whoever likes sends more of
them. Ours bear a token of this process and a number; a filter in the kernel keeps all others away from us. And for IPv4
the kernel puts the IP header before what it hands over, for IPv6 not.
"""

import asyncio
import ctypes
import os
import socket
import struct
import time

from kilim.agent.core.connectivity import Result
from kilim.agent.health.sockets import Namespace
from kilim.model.address import format_ip, is_ipv6

_HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number
_ECHO, _ECHO6, _REPLY, _REPLY6 = 8, 128, 0, 129
_ICMP_FILTER, _ICMP6_FILTER = 1, 1
_SOL_RAW = 255
_SO_ATTACH_FILTER = 26
_AT_ONCE = 64

# Of the kernel's classic BPF (linux/filter.h): what is loaded from the packet, 4 bytes each, and compared.
_HEADER_LENGTH_TO_X, _LOAD_WORD_AT_X, _LOAD_WORD = 0xB1, 0x40, 0x20
_JUMP_IF_EQUAL, _RETURN = 0x15, 0x06


class Echo:
    """Opened when it is first used."""

    def __init__(self, namespace: Namespace, ipv6: bool) -> None:
        self._namespace = namespace
        self._ipv6 = ipv6
        self._socket: socket.socket | None = None
        self._opening = asyncio.Lock()
        self._token = os.urandom(8)
        self._number = 0
        self._waiting: dict[int, asyncio.Future[float]] = {}

    async def probe(self, ip: int, timeout_s: float) -> Result:
        loop = asyncio.get_running_loop()
        assert is_ipv6(ip) is self._ipv6
        self._number = number = (self._number + 1) & 0xFFFFFFFF
        answered = self._waiting[number] = loop.create_future()
        try:
            sender = await self._opened()
            sent_s = time.perf_counter()  # the loop's own clock has steps of a millisecond
            sender.sendto(self._packet(number), (format_ip(ip), 0))
            async with asyncio.timeout(timeout_s):
                answered_s = await answered
        except TimeoutError:
            return Result(loop.time(), error=f"no answer in {timeout_s:g} s")
        except OSError as error:
            return Result(loop.time(), error=error.strerror or str(error))
        finally:
            del self._waiting[number]
        return Result(loop.time(), answered_s - sent_s)

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    async def _opened(self) -> socket.socket:
        async with self._opening:
            if self._socket is None:
                self._socket = await self._open()
                asyncio.get_running_loop().add_reader(self._socket, self._read)
            return self._socket

    async def _open(self) -> socket.socket:
        if self._ipv6:
            made = await self._namespace.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            allowed = bytearray(b"\xff" * 32)
            allowed[_REPLY6 // 32 * 4 : _REPLY6 // 32 * 4 + 4] = struct.pack("=I", 0xFFFFFFFF ^ 1 << _REPLY6 % 32)
            made.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(allowed))
        else:
            made = await self._namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            made.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF ^ 1 << _REPLY))
        _attach_filter(made, self._token, ipv6=self._ipv6)
        return made

    def _packet(self, number: int) -> bytes:
        kind = _ECHO6 if self._ipv6 else _ECHO
        payload = self._token + number.to_bytes(4, "big")
        plain = _HEADER.pack(kind, 0, 0, number >> 16, number & 0xFFFF) + payload
        checksum = 0 if self._ipv6 else internet_checksum(plain)  # of ICMPv6 the kernel makes it
        return _HEADER.pack(kind, 0, checksum, number >> 16, number & 0xFFFF) + payload

    def _read(self) -> None:
        assert self._socket is not None
        now_s = time.perf_counter()
        for _ in range(_AT_ONCE):  # then others have their turn
            try:
                data = self._socket.recv(2048)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # a host that could not be reached, for example; its probe runs into its time-out
                continue
            number = self._number_of(data)
            answered = self._waiting.get(number) if number is not None else None
            if answered is not None and not answered.done():
                answered.set_result(now_s)

    def _number_of(self, data: bytes) -> int | None:
        if not self._ipv6:
            data = data[(data[0] & 0xF) * 4 :] if data else b""
        if len(data) < _HEADER.size + 12 or data[0] != (_REPLY6 if self._ipv6 else _REPLY):
            return None
        token, number = data[_HEADER.size : _HEADER.size + 8], data[_HEADER.size + 8 : _HEADER.size + 12]
        return int.from_bytes(number, "big") if token == self._token else None


def _attach_filter(to: socket.socket, token: bytes, *, ipv6: bool) -> None:
    """Nothing comes in but what has `token` behind the ICMP header."""
    load = _LOAD_WORD if ipv6 else _LOAD_WORD_AT_X
    one, other = struct.unpack("!II", token)
    steps = [] if ipv6 else [(_HEADER_LENGTH_TO_X, 0, 0, 0)]
    steps += [(load, 0, 0, _HEADER.size), (_JUMP_IF_EQUAL, 0, 3, one)]
    steps += [(load, 0, 0, _HEADER.size + 4), (_JUMP_IF_EQUAL, 0, 1, other)]
    steps += [(_RETURN, 0, 0, 0xFFFF), (_RETURN, 0, 0, 0)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    to.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(steps), ctypes.addressof(code)))


def internet_checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
