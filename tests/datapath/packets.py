"""Packets from readable descriptions to bytes. Each function is one layer around the bytes of what it carries; what a
layer says of itself (lengths, checksums, versions) is right unless an argument has it wrong.

    frame(A, ip(A.ipv4, B.ipv4, TCP, tcp(40000, 80, SYN)))
"""

import struct
from collections.abc import Sequence

from kilim.model.address import is_ipv6, mapped

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, NO_NEXT, DESTINATION = 0, 43, 44, 51, 59, 60
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16

ETH_IPV4, ETH_ARP, ETH_VLAN, ETH_IPV6, ETH_QINQ = 0x0800, 0x0806, 0x8100, 0x86DD, 0x88A8

MORE_FRAGMENTS = 0x2000

Extension = tuple[int, bytes]  # header type, and its bytes from the third on


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) & 1)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ethernet(destination: bytes, source: bytes, ethertype: int, payload: bytes) -> bytes:
    return destination + source + struct.pack(">H", ethertype) + payload


def tagged(frame: bytes, *tags: tuple[int, int]) -> bytes:
    """The frame with VLAN tags (ethertype, VLAN id), outermost first."""
    return frame[:12] + b"".join(struct.pack(">HH", *tag) for tag in tags) + frame[12:]


def ipv4(
    source: int,
    destination: int,
    protocol: int,
    payload: bytes,
    *,
    options: bytes = b"",
    fragment: int = 0,
    version: int = 4,
    header_words: int | None = None,
    total_length: int | None = None,
    checksum_error: int = 0,
    number: int = 1,
) -> bytes:
    """`options` are padded to whole words; `fragment` is flags and offset as the header has them."""
    options += b"\0" * (-len(options) % 4)
    words = 5 + len(options) // 4 if header_words is None else header_words
    length = 20 + len(options) + len(payload) if total_length is None else total_length
    header = struct.pack(
        ">BBHHHBBHII", version << 4 | words, 0, length & 0xFFFF, number, fragment, 64, protocol, 0, source, destination
    )
    summed = checksum(header + options) ^ checksum_error
    return header[:10] + struct.pack(">H", summed) + header[12:] + options + payload


def extension(kind: int, next_header: int, rest: bytes) -> bytes:
    """Padded to whole units; RFC 4302 counts an authentication header in words, less two."""
    unit, less = (4, 2) if kind == AUTHENTICATION else (8, 1)
    rest += b"\0" * (6 - len(rest))
    rest += b"\0" * (-(len(rest) + 2) % unit)
    return struct.pack(">BB", next_header, (len(rest) + 2) // unit - less) + rest


def fragment_header(offset: int = 0, more: bool = True, number: int = 7) -> Extension:
    """`offset` in units of eight bytes."""
    return FRAGMENT, struct.pack(">HI", offset << 3 | more, number)


def ipv6(
    source: int,
    destination: int,
    protocol: int,
    payload: bytes,
    *,
    extensions: Sequence[Extension] = (),
    version: int = 6,
    payload_length: int | None = None,
    hop_limit: int = 64,
) -> bytes:
    next_header = protocol
    for kind, rest in reversed(extensions):
        payload, next_header = extension(kind, next_header, rest) + payload, kind
    length = len(payload) if payload_length is None else payload_length
    return (
        struct.pack(">IHBB", version << 28, length & 0xFFFF, next_header, hop_limit)
        + mapped(source)
        + mapped(destination)
        + payload
    )


def ip(source: int, destination: int, protocol: int, payload: bytes) -> bytes:
    """Of the family of the addresses, with the checksum of the layer above put right."""
    payload = with_checksum(source, destination, protocol, payload)
    return (ipv6 if is_ipv6(source) else ipv4)(source, destination, protocol, payload)


_CHECKSUM_AT = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2}


def with_checksum(source: int, destination: int, protocol: int, payload: bytes) -> bytes:
    """The payload with its own checksum, where there is room for one (SCTP's, a CRC, is left alone)."""
    at = _CHECKSUM_AT.get(protocol)
    if at is None or len(payload) < at + 2:
        return payload
    payload = payload[:at] + b"\0\0" + payload[at + 2 :]
    summed = checksum(payload if protocol == ICMP else _pseudo_header(source, destination, protocol, payload) + payload)
    return payload[:at] + struct.pack(">H", summed or 0xFFFF) + payload[at + 2 :]


def _pseudo_header(source: int, destination: int, protocol: int, payload: bytes) -> bytes:
    if is_ipv6(source):
        return mapped(source) + mapped(destination) + struct.pack(">IxxxB", len(payload), protocol)
    return struct.pack(">IIxBH", source, destination, protocol, len(payload))


def tcp(source_port: int, destination_port: int, flags: int = SYN, data: bytes = b"", options: bytes = b"") -> bytes:
    options += b"\0" * (-len(options) % 4)
    words = 5 + len(options) // 4
    return (
        struct.pack(">HHIIBBHHH", source_port, destination_port, 1, 1, words << 4, flags, 1000, 0, 0) + options + data
    )


def udp(source_port: int, destination_port: int, data: bytes = b"data", length: int | None = None) -> bytes:
    return struct.pack(">HHHH", source_port, destination_port, 8 + len(data) if length is None else length, 0) + data


def sctp(source_port: int, destination_port: int, chunks: bytes = b"") -> bytes:
    return struct.pack(">HHII", source_port, destination_port, 1, 0) + chunks


def icmp(kind: int, code: int = 0, number: int = 7, rest: bytes = b"") -> bytes:
    """Of either family. `number` is the id of an echo."""
    return struct.pack(">BBHHH", kind, code, 0, number, 1) + rest


def icmp_error(kind: int, about: bytes, code: int = 0) -> bytes:
    """`about`: as much of the packet complained of as is quoted, from its IP header on."""
    return struct.pack(">BBHI", kind, code, 0, 0) + about


def neighbor(kind: int, target: int, mac: bytes) -> bytes:
    """NDP (RFC 4861): 135 asks for `target`, 136 says that it is at `mac`."""
    option = 1 if kind == 135 else 2
    return struct.pack(">BBHI", kind, 0, 0, 0) + mapped(target) + struct.pack(">BB", option, 1) + mac


def arp(operation: int, sender_mac: bytes, sender_ip: int, target_ip: int) -> bytes:
    """What an Ethernet frame of ETH_ARP carries, padded to the shortest frame."""
    body = struct.pack(">HHBBH6sI6sI", 1, ETH_IPV4, 6, 4, operation, sender_mac, sender_ip, b"\0" * 6, target_ip)
    return body + b"\0" * 18
