"""Reading a packet. A header counts as far as the frame has its bytes; lengths and checksums that headers claim are the
receiving stack's to check."""

import struct
from dataclasses import dataclass
from typing import NamedTuple

from kilim.model.address import IPV6, from_mapped
from tests.datapath.model.state import EGRESS, Dropped, End, Endpoint

_ETHERNET = 14
IPV4, ARP, IP6 = 0x0800, 0x0806, 0x86DD
ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION = 0, 43, 44, 51, 60
_MOST_EXTENSIONS = 5

REQUEST, REPLY = "request", "reply"


class Fragment(NamedTuple):
    number: int
    offset: int  # bytes

    @property
    def later(self) -> bool:
        return self.offset > 0

    @property
    def overlaps(self) -> bool:
        """Begins where a first fragment must still be going on: within the longest header that is read."""
        return 0 < self.offset < 20


@dataclass
class Packet:
    frame: bytes
    ifindex: int
    direction: int  # of the verdict
    family: int = 4
    src: int | None = None
    dst: int | None = None
    src_port: int = 0
    dst_port: int = 0
    policy_port: int = 0
    protocol: int = 0
    tcp_flags: int = 0
    l4: int = 0  # where it begins
    end: int = 0  # of the packet, by its header
    src_identity: int = 0
    dst_identity: int = 0
    endpoint_id: int = 0
    src_endpoint: Endpoint | None = None  # of this node: its policy counts
    dst_endpoint: Endpoint | None = None
    to_pod: bool = False  # goes to an endpoint of this node by where it was seen
    tracked: bool = False
    icmp_error: bool = False
    echo: str = ""
    remembered: bool = False  # a first fragment
    state: str = ""  # of the verdict: new, established, reply, related
    fragment: Fragment | None = None

    @property
    def sender(self) -> End:
        assert self.src is not None
        return End(self.src, self.src_port)

    @property
    def receiver(self) -> End:
        assert self.dst is not None
        return End(self.dst, self.dst_port)

    @property
    def is_icmpv6(self) -> bool:
        return self.family == 6 and self.protocol == ICMPV6

    @property
    def is_egress(self) -> bool:
        return self.direction == EGRESS


def ethertype(frame: bytes) -> int:
    return int.from_bytes(frame[12:14], "big")


def read_ip(p: Packet) -> None:
    if ethertype(p.frame) == IPV4:
        _read_ipv4(p)
    else:
        p.family = 6
        _read_ipv6(p)


def _read_ipv4(p: Packet) -> None:
    header = p.frame[_ETHERNET : _ETHERNET + 20]
    if len(header) < 20 or header[0] >> 4 != 4 or header[0] & 15 < 5:
        raise Dropped("INVALID_PACKET")
    p.src, p.dst = struct.unpack(">II", header[12:])
    p.protocol = header[9]
    p.l4 = _ETHERNET + (header[0] & 15) * 4
    length, number, place = struct.unpack_from(">HHH", header, 2)
    p.end = _ETHERNET + length
    if place & 0x3FFF:  # more to come, or not the first
        p.fragment = Fragment(number, (place & 0x1FFF) * 8)
        if p.fragment.overlaps:
            raise Dropped("FRAGMENT")


def _read_ipv6(p: Packet) -> None:
    header = p.frame[_ETHERNET : _ETHERNET + 40]
    if len(header) < 40 or header[0] >> 4 != 6:
        raise Dropped("INVALID_PACKET")
    p.src, p.dst = from_mapped(header[8:24]), from_mapped(header[24:40])
    if p.src < IPV6 or p.dst < IPV6:  # an IPv4 address in IPv6's form is none for a wire
        raise Dropped("INVALID_PACKET")
    p.end = _ETHERNET + 40 + int.from_bytes(header[4:6], "big")
    p.protocol, p.l4, wrong, p.fragment = skip_extensions(p.frame, header[6], _ETHERNET + 40)
    if wrong:
        raise Dropped(wrong)


def skip_extensions(frame: bytes, kind: int, at: int) -> tuple[int, int, str, Fragment | None]:
    """From the header of type `kind` to the first that is no extension, or to what a later fragment carries: its type,
    where it begins, what is wrong, and which fragment it is. Five may come before it. Hop-by-hop options may only be
    first; a fragment that is its whole packet is none."""
    fragment = None
    for number in range(_MOST_EXTENSIONS + 1):
        if kind == _FRAGMENT:
            if fragment or len(frame) < at + 8:
                return kind, at, "FRAGMENT", fragment
            kind, place, name = struct.unpack_from(">BxHI", frame, at)
            at += 8
            if place & 0xFFF9:
                fragment = Fragment(name, place >> 3 << 3)
                if fragment.later:
                    return kind, at, "FRAGMENT" if fragment.overlaps else "", fragment
            continue
        if kind not in (_HOP_BY_HOP, _ROUTING, _DESTINATION, _AUTHENTICATION):
            return kind, at, "", fragment
        if kind == _HOP_BY_HOP and number or len(frame) < at + 2:
            return kind, at, "INVALID_EXTHDR", fragment
        length = (frame[at + 1] + 2) * 4 if kind == _AUTHENTICATION else (frame[at + 1] + 1) * 8
        kind, at = frame[at], at + length
    return kind, at, "INVALID_EXTHDR", fragment


def read_l4(p: Packet) -> None:
    """Ports, flags, ICMP type. TCP needs its header whole, all else its first eight bytes."""
    header = p.frame[p.l4 :]
    if len(header) < (20 if p.protocol == TCP else 8):
        raise Dropped("CT_INVALID_HEADER")
    if p.protocol == (ICMP if p.family == 4 else ICMPV6):
        _read_icmp(p, header)
        return
    if p.protocol not in (TCP, UDP, SCTP):
        raise Dropped("CT_UNKNOWN_L4")
    p.tracked = True
    p.src_port, p.dst_port = struct.unpack_from(">HH", header)
    p.policy_port = p.dst_port
    if p.protocol == TCP:
        p.tcp_flags = header[13]


def _read_icmp(p: Packet, header: bytes) -> None:
    """Echoes are connections: the id is the port of the end that asks, 0 that of the end that answers."""
    kind = p.policy_port = header[0]
    number = int.from_bytes(header[4:6], "big")
    errors = (3, 11, 12) if p.family == 4 else (1, 2, 3, 4)
    p.icmp_error = kind in errors
    request, reply = (8, 0) if p.family == 4 else (128, 129)
    if kind == request:
        p.echo, p.src_port = REQUEST, number
    elif kind == reply:
        p.echo, p.dst_port = REPLY, number
    p.tracked = bool(p.echo)


def echo_request(family: int) -> int:
    return 8 if family == 4 else 128
