"""The ends that checks send between, the node that they are about, and packets between them."""

import struct
from dataclasses import replace
from typing import NamedTuple

from kilim.model.address import parse_cidr, parse_ip
from kilim.model.mac import node_mac, pod_mac
from tests.datapath import packets
from tests.datapath.model.state import EGRESS as EGRESS
from tests.datapath.model.state import INGRESS as INGRESS
from tests.datapath.model.state import Endpoint, Remote, Row, Settings, Subject, Tables

LO = 1  # BPF_PROG_TEST_RUN gives packets the loopback device, so all endpoints are there
TUNNEL = 3
TUNNEL_PORT = 8472
FAMILIES = (4, 6)


class Place(NamedTuple):
    ipv4: int
    ipv6: int
    identity: int
    endpoint_id: int = 0

    def ip(self, family: int) -> int:
        return self.ipv4 if family == 4 else self.ipv6

    @property
    def mac(self) -> bytes:
        return pod_mac(self.endpoint_id) if self.endpoint_id else node_mac(0)


def _place(ipv4: str, ipv6: str, identity: int, endpoint_id: int = 0) -> Place:
    return Place(parse_ip(ipv4), parse_ip(ipv6), identity, endpoint_id)


NODE = _place("192.168.60.1", "fd00:60::1", 1)
OTHER_NODE = _place("192.168.60.2", "fd00:60::2", 6)
THIRD_NODE = _place("192.168.60.3", "fd00:60::3", (2 << 24) + 5)
A = _place("10.244.1.2", "fd00:10:244:1::2", 1001, 11)
B = _place("10.244.1.3", "fd00:10:244:1::3", 1002, 12)
REMOTE = _place("10.244.2.2", "fd00:10:244:2::2", 1003)  # a pod of OTHER_NODE, by an IPv4 tunnel
REMOTE_BY_IPV6 = _place("10.244.3.2", "fd00:10:244:3::2", 1004)  # a pod of THIRD_NODE, by an IPv6 tunnel
WORLD = _place("198.51.100.7", "2001:db8::7", 2)
CIDR = _place("203.0.113.9", "2001:db8:113::9", (1 << 24) + 1)
STRANGER = _place("10.244.1.99", "fd00:10:244:1::99", 0)
NODE_LOCAL = _place("169.254.20.10", "fd00:61::10", 1)  # on another device of this node
NEWCOMER = _place("10.244.2.77", "fd00:10:244:2::77", 1009)  # of OTHER_NODE, without a row yet

DEVICE_MTUS = {LO: 1400, TUNNEL: 1350}
ROUTE_MTUS = {OTHER_NODE.ipv4: 1385, WORLD.ipv4: 1320, WORLD.ipv6: 1320}  # of the others the kernel tells none
SETTINGS = Settings(
    NODE.ipv4,
    NODE.ipv6,
    frozenset((NODE_LOCAL.ipv4, NODE_LOCAL.ipv6)),
    LO,
    TUNNEL,
    TUNNEL_PORT,
    DEVICE_MTUS,
    ROUTE_MTUS,
)


MASQUERADING = replace(
    SETTINGS,
    masquerade=True,
    masquerade_ports=(10000, 10002),
    masquerade_exempts=(parse_cidr("203.0.113.8/29"), parse_cidr("2001:db8:113::/126")),
)  # of CIDR the IPv4 address is exempt


def tables() -> Tables:
    """Nothing is enforced."""
    made = Tables()
    for family, length in ((4, 32), (6, 128)):
        for place in (NODE, OTHER_NODE, THIRD_NODE, A, B):
            made.ipcache[place.ip(family), length] = Remote(place.identity)
        made.ipcache[REMOTE.ip(family), length] = Remote(REMOTE.identity, OTHER_NODE.ipv4)
        made.ipcache[REMOTE_BY_IPV6.ip(family), length] = Remote(REMOTE_BY_IPV6.identity, THIRD_NODE.ipv6)
        for place in (A, B):
            made.endpoints[place.ip(family)] = Endpoint(LO, place.identity, place.endpoint_id)
    made.ipcache[parse_ip("203.0.113.0"), 24] = Remote(CIDR.identity)
    made.ipcache[parse_ip("2001:db8:113::"), 64] = Remote(CIDR.identity)
    made.subjects = {place.identity: Subject(1, 1, 0) for place in (A, B)}
    return made


ALLOW, DENY, GO_ON = 1, 2, 0


def row(
    subject: Place, direction: int, peer: int = 0, protocol: int = 0, port: int = 0, exact: int = -1, tier: int = 0
) -> Row:
    """Under the subject's table of `tables()`. `exact`: how many bits of the port count; all, if it has one."""
    exact = (16 if port else 0) if exact < 0 else exact
    return Row(1, subject.identity, direction, peer, protocol, port, exact, tier)


def enforce(made: Tables, subject: Place, flags: int = 3, **changes: int) -> None:
    """Of its subject's row: flags, and what else is to change of it."""
    made.subjects[subject.identity] = made.subjects[subject.identity]._replace(flags=flags, **changes)


def packet(source: Place, destination: Place, family: int, protocol: int, payload: bytes) -> bytes:
    layer = packets.ip(source.ip(family), destination.ip(family), protocol, payload)
    return framed(source, family, layer)


def framed(source: Place, family: int, layer: bytes) -> bytes:
    ethertype = packets.ETH_IPV4 if family == 4 else packets.ETH_IPV6
    return packets.ethernet(node_mac(source.endpoint_id), source.mac, ethertype, layer)


def tcp(
    source: Place, destination: Place, family: int, flags: int = packets.SYN, ports: tuple[int, int] = (40000, 80)
) -> bytes:
    return packet(source, destination, family, packets.TCP, packets.tcp(*ports, flags))


def udp(source: Place, destination: Place, family: int, ports: tuple[int, int] = (40000, 53)) -> bytes:
    return packet(source, destination, family, packets.UDP, packets.udp(*ports))


def icmp_protocol(family: int) -> int:
    return packets.ICMP if family == 4 else packets.ICMPV6


def echo(source: Place, destination: Place, family: int, reply: bool = False, number: int = 7) -> bytes:
    request, answer = (8, 0) if family == 4 else (128, 129)
    return packet(
        source, destination, family, icmp_protocol(family), packets.icmp(answer if reply else request, 0, number)
    )


def unreachable(source: Place, destination: Place, family: int, about: bytes, quoted: int = -1) -> bytes:
    """`about`: a frame; of its packet the header and eight bytes are quoted, or as many bytes as said."""
    length = (28 if family == 4 else 48) if quoted < 0 else quoted
    error = packets.icmp_error(3 if family == 4 else 1, about[14 : 14 + length], 1)
    return packet(source, destination, family, icmp_protocol(family), error)


def changed(frame: bytes, at: int, value: bytes) -> bytes:
    return frame[:at] + value + frame[at + len(value) :]


def ports_at(family: int) -> int:
    return 34 if family == 4 else 54


def word(value: int) -> bytes:
    return struct.pack(">H", value)


def answered(frame: bytes) -> bytes:
    """The packet with its ends exchanged, and what is asked is replied; its checksum stays wrong or right."""
    family = 4 if frame[12:14] == b"\x08\x00" else 6
    at, size = (26, 4) if family == 4 else (22, 16)
    source, destination = frame[at : at + size], frame[at + size : at + 2 * size]
    l4 = at + 2 * size
    if frame[23 if family == 4 else 20] == icmp_protocol(family):
        return changed(frame, at, destination + source + bytes((0 if family == 4 else 129,)))
    flags = bytes((packets.SYN | packets.ACK,)) if frame[23 if family == 4 else 20] == packets.TCP else b""
    back = changed(frame, at, destination + source + frame[l4 + 2 : l4 + 4] + frame[l4 : l4 + 2])
    return changed(back, l4 + 13, flags)


def complaint(frame: bytes, quoted: int) -> bytes:
    family = 4 if frame[12:14] == b"\x08\x00" else 6
    at, size, header = (26, 4, 20) if family == 4 else (22, 16, 40)
    tag = 0 if family == 4 else 1 << 128
    source, destination = (tag | int.from_bytes(frame[each : each + size], "big") for each in (at, at + size))
    sender, receiver = Place(destination, destination, 0), Place(source, source, 0)
    return unreachable(sender, receiver, family, frame, header + quoted)
