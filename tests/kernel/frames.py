"""Frames to send through programs, and the ends that they go between."""

import socket
import struct
from typing import NamedTuple

from kilim.model.address import parse_ip

TCP, UDP, ICMP, SCTP = 6, 17, 1, 132
FIN, SYN, RST, ACK = 1, 2, 4, 16

_ETHERNET = b"\x02\0\0\0\0\x01" + b"\x02\0\0\0\0\x02"


class End(NamedTuple):
    ip: int
    identity: int
    endpoint_id: int = 0


NODE = End(parse_ip("192.168.0.1"), 1)
OTHER_NODE = End(parse_ip("192.168.0.2"), 6)
A = End(parse_ip("10.61.1.2"), 1001, 11)
B = End(parse_ip("10.61.1.3"), 1002, 12)
REMOTE = End(parse_ip("10.61.2.2"), 1003)
WORLD = End(parse_ip("198.51.100.7"), 2)
CIDR = End(parse_ip("203.0.113.9"), (1 << 24) + 1)


def ipv4(source: End, destination: End, protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    header = struct.pack(
        ">BBHHHBBHII",
        *(0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0, source.ip, destination.ip),
    )
    return _ETHERNET + b"\x08\x00" + header + payload


def tcp(source: End, destination: End, flags: int = SYN, sport: int = 40000, dport: int = 80) -> bytes:
    return ipv4(source, destination, TCP, struct.pack(">HHIIBBHHH", sport, dport, 1, 1, 0x50, flags, 1000, 0, 0))


def udp(source: End, destination: End, sport: int = 40000, dport: int = 53) -> bytes:
    return ipv4(source, destination, UDP, struct.pack(">HHHH", sport, dport, 12, 0) + b"data")


def sctp(source: End, destination: End, sport: int = 40000, dport: int = 80) -> bytes:
    return ipv4(source, destination, SCTP, struct.pack(">HHII", sport, dport, 0, 0))


def icmp(source: End, destination: End, icmp_type: int = 8, number: int = 7, rest: bytes = b"") -> bytes:
    return ipv4(source, destination, ICMP, struct.pack(">BBHHH", icmp_type, 0, 0, number, 1) + rest)


def icmp_error(source: End, destination: End, about: bytes, icmp_type: int = 3) -> bytes:
    """`about`: the frame that is complained of; its IP header and the first 8 bytes after it are embedded."""
    return ipv4(source, destination, ICMP, struct.pack(">BBHI", icmp_type, 1, 0, 0) + about[14:42])


def arp(sender_ip: int) -> bytes:
    body = struct.pack(">HHBBH6sI6sI", 1, 0x0800, 6, 4, 1, _ETHERNET[6:], sender_ip, b"\0" * 6, NODE.ip)
    return _ETHERNET + b"\x08\x06" + body + b"\0" * 18


def ipv6() -> bytes:
    header = struct.pack(">IHBB", 6 << 28, 8, 58, 255) + socket.inet_pton(socket.AF_INET6, "fe80::1") * 2
    return _ETHERNET + b"\x86\xdd" + header + b"\x85\0\0\0\0\0\0\0"
