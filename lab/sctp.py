"""SCTP by raw sockets, as far as a probe needs it: INIT is answered by INIT ACK or ABORT.

Kernels without the sctp module still deliver protocol 132 to raw sockets, so a policy on SCTP ports can be tried with
real packets everywhere. Layout (RFC 9260):

    0        2        4             8          12  13    14      16
    | sport  | dport  | tag         | CRC32c   |type|flags|length| tag a_rwnd streams streams tsn | cookie …
"""

import struct
from dataclasses import dataclass

IPPROTO_SCTP = 132
INIT, INIT_ACK, ABORT = 1, 2, 6
_SHORTEST_BYTES = {INIT: 32, INIT_ACK: 32, ABORT: 16}
_CHUNK_FIXED = struct.Struct("!IIHHI")
_COOKIE_PARAMETER = 7
_CRC32C = 0x82F63B78


@dataclass(frozen=True, slots=True)
class SctpPacket:
    source_port: int
    destination_port: int
    chunk: int
    tag: int
    cookie: bytes


def encode_init(source_port: int, destination_port: int, tag: int) -> bytes:
    return _encode(source_port, destination_port, 0, INIT, tag, b"")


def encode_init_ack(to: SctpPacket, cookie: bytes) -> bytes:
    return _encode(to.destination_port, to.source_port, to.tag, INIT_ACK, to.tag ^ 1, cookie)


def encode_abort(to: SctpPacket) -> bytes:
    return _with_checksum(to.destination_port, to.source_port, to.tag, struct.pack("!BBH", ABORT, 0, 4))


def decode_sctp(packet: bytes, with_ip_header: bool = True) -> SctpPacket | None:
    """As a raw socket gives it: of IPv4 with the header, of IPv6 without. None where it is none of the three chunks."""
    header = (packet[0] & 0xF) * 4 if packet and with_ip_header else 0
    chunk = packet[header + 12] if len(packet) > header + 12 else 0
    if chunk not in _SHORTEST_BYTES or len(packet) < header + _SHORTEST_BYTES[chunk]:
        return None
    source, destination, tag, _ = struct.unpack_from("!HHII", packet, header)
    if chunk != ABORT:
        (tag,) = struct.unpack_from("!I", packet, header + 16)
    return SctpPacket(source, destination, chunk, tag, _cookie(packet[header + 32 :]))


def _cookie(parameters: bytes) -> bytes:
    if len(parameters) < 4:
        return b""
    kind, length = struct.unpack_from("!HH", parameters)
    return parameters[4:length] if kind == _COOKIE_PARAMETER else b""


def _encode(source: int, destination: int, verification: int, chunk: int, tag: int, cookie: bytes) -> bytes:
    parameter = struct.pack("!HH", _COOKIE_PARAMETER, 4 + len(cookie)) + cookie if cookie else b""
    body = _CHUNK_FIXED.pack(tag, 65536, 1, 1, 1) + parameter
    padding = b"\0" * (-len(body) % 4)
    rest = struct.pack("!BBH", chunk, 0, 4 + len(body)) + body + padding
    return _with_checksum(source, destination, verification, rest)


def _with_checksum(source: int, destination: int, verification: int, rest: bytes) -> bytes:
    head = struct.pack("!HHI", source, destination, verification)
    checksum = _crc32c(head + b"\0\0\0\0" + rest)
    return head + struct.pack("<I", checksum) + rest


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_CRC32C if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
