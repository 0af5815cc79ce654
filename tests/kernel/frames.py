"""Frames to send through programs, and the ends that they go between."""

import socket
import struct
from typing import NamedTuple

from kilim.model.address import IPV6, format_ip, host_length, mapped, parse_ip
from kilim.model.mac import pod_mac

TCP, UDP, ICMP, SCTP, ICMPV6 = 6, 17, 1, 132, 58
FRAGMENT_HEADER = 44
FIN, SYN, RST, ACK = 1, 2, 4, 16

_NODE_MAC = b"\x02\0\0\0\0\x01"
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"


class _Family:
    """Of all ends, as long as a test runs; see the fixture `family`."""

    is_ipv6 = False

    @property
    def name(self) -> str:
        return "IPv6" if self.is_ipv6 else "IPv4"


FAMILY = _Family()


class End(NamedTuple):
    """Known by its IPv4 address; the IPv6 one has the same last 32 bits."""

    ipv4: int
    identity: int
    endpoint_id: int = 0

    @property
    def ip(self) -> int:
        return ipv6_like(self.ipv4) if FAMILY.is_ipv6 else self.ipv4

    @property
    def host(self) -> tuple[int, int]:
        """The prefix that is this address alone."""
        return self.ip, host_length(self.ip)

    @property
    def text(self) -> str:
        return format_ip(self.ip)

    @property
    def mac(self) -> bytes:
        return pod_mac(self.endpoint_id)


class Outside(End):
    @property
    def identity(self) -> int:  # type: ignore[override]
        return 10 if FAMILY.is_ipv6 else 2


def ipv6_like(ipv4: int) -> int:
    return parse_ip("2001:db8::") | ipv4 if ipv4 < IPV6 else ipv4


NODE = End(parse_ip("192.168.0.1"), 1)
OTHER_NODE = End(parse_ip("192.168.0.2"), 6)
A = End(parse_ip("10.61.1.2"), 1001, 11)
B = End(parse_ip("10.61.1.3"), 1002, 12)
REMOTE = End(parse_ip("10.61.2.2"), 1003)
WORLD = Outside(parse_ip("198.51.100.7"), 0)
CIDR = End(parse_ip("203.0.113.9"), (1 << 24) + 1)


def ip(source: End, destination: End, protocol: int, payload: bytes, fragment: int = 0, number: int = 1) -> bytes:
    """A frame of the family. `fragment`: flags and offset as IPv4 has them; `number`: of the packet that it is of."""
    if not FAMILY.is_ipv6:
        return ipv4(source, destination, protocol, payload, fragment, number)
    if not fragment:
        return ipv6(source, destination, protocol, payload)
    more, offset = fragment >> 13 & 1, fragment & 0x1FFF
    header = struct.pack(">BBHI", protocol, 0, offset << 3 | more, number)
    return ipv6(source, destination, FRAGMENT_HEADER, header + payload)


def ipv4(source: End, destination: End, protocol: int, payload: bytes, fragment: int = 0, number: int = 1) -> bytes:
    header = struct.pack(
        ">BBHHHBBHII",
        *(0x45, 0, 20 + len(payload), number, fragment, 64, protocol, 0, source.ipv4, destination.ipv4),
    )
    return _NODE_MAC + source.mac + _IPV4 + header + payload


def ipv6(source: End, destination: End, next_header: int, payload: bytes, hop_limit: int = 64) -> bytes:
    header = struct.pack(">IHBB", 6 << 28, len(payload), next_header, hop_limit)
    ends = b"".join(mapped(ipv6_like(end.ipv4)) for end in (source, destination))
    return _NODE_MAC + source.mac + _IPV6 + header + ends + payload


def tcp(source: End, destination: End, flags: int = SYN, sport: int = 40000, dport: int = 80) -> bytes:
    return ip(source, destination, TCP, struct.pack(">HHIIBBHHH", sport, dport, 1, 1, 0x50, flags, 1000, 0, 0))


def udp(source: End, destination: End, sport: int = 40000, dport: int = 53) -> bytes:
    return ip(source, destination, UDP, struct.pack(">HHHH", sport, dport, 12, 0) + b"data")


def sctp(source: End, destination: End, sport: int = 40000, dport: int = 80) -> bytes:
    return ip(source, destination, SCTP, struct.pack(">HHII", sport, dport, 0, 0))


def icmp(source: End, destination: End, icmp_type: int = 8, number: int = 7, rest: bytes = b"") -> bytes:
    """By the types of IPv4: 8 is an echo request in both families, 0 its reply."""
    protocol, icmp_type = (ICMPV6, {8: 128, 0: 129}.get(icmp_type, icmp_type)) if FAMILY.is_ipv6 else (ICMP, icmp_type)
    return ip(source, destination, protocol, struct.pack(">BBHHH", icmp_type, 0, 0, number, 1) + rest)


def icmp_error(source: End, destination: End, about: bytes, icmp_type: int = 3, quoted: int = 8) -> bytes:
    """`about`: the frame that is complained of; its IP header and the first bytes after it are quoted. By the types
    of IPv4: 3 is destination unreachable in both families, 11 time exceeded."""
    if FAMILY.is_ipv6:
        icmp_type = {3: 1, 11: 3, 12: 4}[icmp_type]
        return ipv6(source, destination, ICMPV6, struct.pack(">BBHI", icmp_type, 1, 0, 0) + about[14 : 54 + quoted])
    return ipv4(source, destination, ICMP, struct.pack(">BBHI", icmp_type, 1, 0, 0) + about[14 : 34 + quoted])


def icmp_protocol() -> int:
    return ICMPV6 if FAMILY.is_ipv6 else ICMP


def arp(sender: End) -> bytes:
    body = struct.pack(">HHBBH6sI6sI", 1, 0x0800, 6, 4, 1, sender.mac, sender.ipv4, b"\0" * 6, NODE.ipv4)
    return _NODE_MAC + sender.mac + b"\x08\x06" + body + b"\0" * 18


def neighbor(sender: End, icmp_type: int, target: int, source_ip: int = 0) -> bytes:
    """NDP: 135 asks for `target`, 136 says that the sender has it."""
    header = struct.pack(">BBHI", icmp_type, 0, 0, 0) + mapped(target) + b"\x01\x01" + sender.mac
    return ipv6(sender._replace(ipv4=source_ip or sender.ipv4), NODE, ICMPV6, header, hop_limit=255)


def router_solicitation() -> bytes:
    header = struct.pack(">IHBB", 6 << 28, 8, ICMPV6, 255) + socket.inet_pton(socket.AF_INET6, "fe80::1") * 2
    return _NODE_MAC + _NODE_MAC + _IPV6 + header + b"\x85\0\0\0\0\0\0\0"
