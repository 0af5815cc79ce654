"""What the fuzzer draws: tables, changes of them, packets. All from one random.Random."""

from collections.abc import Sequence
from random import Random

from kilim.model.address import without_host_bits
from tests.datapath import packets, places
from tests.datapath.check import Change, Send
from tests.datapath.model.state import ENDPOINT_AUDITED, SUBJECT_UNKNOWN, Endpoint, Remote, Row, Subject, Tables
from tests.datapath.places import (
    CIDR,
    NEWCOMER,
    NODE,
    NODE_LOCAL,
    OTHER_NODE,
    REMOTE,
    REMOTE_BY_IPV6,
    STRANGER,
    THIRD_NODE,
    WORLD,
    A,
    B,
    Place,
)

_PLACES = (A, B, NODE, OTHER_NODE, THIRD_NODE, REMOTE, REMOTE_BY_IPV6, WORLD, CIDR, STRANGER, NEWCOMER, NODE_LOCAL)
_IDENTITIES = (1, 2, 4, 6, 10, 1001, 1002, 1003, 1004, 1009, (1 << 24) + 1, (2 << 24) + 5)
_PORTS = (0, 1, 53, 80, 81, 8472, 10001, 40000, 65535)
_PROTOCOLS = (1, 6, 17, 58, 132)
_VNIS = (0, 1, 2, 4, 6, 10, 255, 256, 1002, 1003, 1009, 65535, 65536, (1 << 24) - 1)


def draw_tables(random: Random) -> Tables:
    """Those of the checks, with policy at random, and now and then a row too few, another or one more."""
    tables = places.tables()
    for place in (A, B):
        flags = random.choice((0, 1, 2, 3, 3, 3, random.randrange(64)))
        tables.subjects[place.identity] = Subject(random.choice((1, 1, 2)), random.randrange(1, 4), flags)
    for _ in range(random.randrange(25)):
        tables.policy[_draw_row(random)] = random.choice((1, 1, 1, 2, 4, 5, 6, 9, 10))
    for _ in range(random.choice((0, 0, 1, 3))):
        draw_change(random)(tables)
    return tables


def _draw_row(random: Random) -> Row:
    protocol = random.choice((0, 0, *_PROTOCOLS))
    exact = random.choice((0, 16, 16, random.randrange(17))) if protocol else 0
    port = random.choice((*_PORTS, 8, 128)) >> (16 - exact) << (16 - exact)
    return Row(
        random.choice((1, 1, 1, 2)),
        random.choice((1001, 1002)),
        random.randrange(2),
        random.choice((0, 0, *_IDENTITIES)),
        *(protocol, port, exact, random.choice((0, 0, 0, 1, 2))),
    )


def draw_change(random: Random) -> Change:
    """What an agent may come to write, and what nobody should: the datapath goes by what is there."""
    kind = random.randrange(6)
    place, family = random.choice(_PLACES), random.choice(places.FAMILIES)
    row, value, identity = _draw_row(random), random.choice((1, 2, 5, 6)), random.choice(_IDENTITIES)
    subject = Subject(random.choice((1, 2)), random.randrange(1, 6), random.choice((0, 3, 63, SUBJECT_UNKNOWN | 3)))
    length = random.choice((0, 1, 8, 16, 24, 31, 32) if family == 4 else (0, 1, 8, 48, 64, 80, 96, 127, 128))
    tunnel = random.choice((0, 0, OTHER_NODE.ipv4, THIRD_NODE.ipv6))
    endpoint = Endpoint(random.choice((1, 1, 1, 77)), random.choice((1001, 1002, 1003)), random.choice((11, 12, 13)),
                        random.choice((0, ENDPOINT_AUDITED)))  # fmt: skip
    removes = random.random() < 0.3

    def change(tables: Tables) -> None:
        prefix = without_host_bits(place.ip(family), length), length
        if kind == 0 and removes:
            tables.policy.pop(row, None)
        elif kind == 0:
            tables.policy[row] = value
        elif kind == 1 and removes:
            tables.subjects.pop(endpoint.identity, None)
        elif kind in (1, 2):
            tables.subjects[endpoint.identity] = subject
        elif kind == 3 and removes:
            tables.endpoints.pop(place.ip(family), None)
        elif kind == 3:
            tables.endpoints[random_end(place).ip(family)] = endpoint
        elif removes:
            tables.ipcache.pop(prefix, None)
        else:
            tables.ipcache[prefix] = Remote(identity, tunnel)

    return change


def random_end(place: Place) -> Place:
    """Endpoints come and go among pods; a node's address or the world's is none."""
    return place if place in (A, B, STRANGER, NEWCOMER) else A


def draw_packet(random: Random, sent: Sequence[Send], outside: bool = False) -> Send:
    """New, an answer to one that was sent, that one again, or either with some bytes changed. `outside`: mostly between
    pods and what is outside."""
    chance = random.random()
    if sent and chance < (0.6 if outside else 0.35):
        step = random.choice(sent[-6:])
        if random.random() < 0.7:
            step = _answer(random, step)
    else:
        step = _draw_new(random, outside and random.random() < 0.7)
    if random.random() < 0.25:
        step = step._replace(frame=_mutated(random, step.frame))
    return step


_SOURCES = {
    "from_endpoint": (A, A, B, B, STRANGER, REMOTE),
    "to_endpoint": (NODE, NODE, OTHER_NODE, WORLD, A),
    "from_netdev": (WORLD, CIDR, OTHER_NODE, REMOTE, NODE, STRANGER),
    "overlay": (REMOTE, REMOTE, REMOTE_BY_IPV6, NEWCOMER, A, OTHER_NODE),
}


_DESTINATIONS = {"from_endpoint": (*_PLACES, WORLD), "from_netdev": (A, B, B, STRANGER, NODE)}


def _draw_new(random: Random, outside: bool) -> Send:
    program = "from_endpoint" if outside else random.choice(tuple(_SOURCES))
    source = random.choice((A, B) if outside else _SOURCES[program])
    destination = random.choice((WORLD, CIDR) if outside else _DESTINATIONS.get(program, (A, B, B, STRANGER)))
    return _send(random, program, source, destination, _draw_frame(random, source, destination))


def _send(random: Random, program: str, source: Place, destination: Place, frame: bytes) -> Send:
    tunnel = None
    if program == "overlay" and random.random() < 0.95:
        outer = THIRD_NODE.ipv6 if source is REMOTE_BY_IPV6 else OTHER_NODE.ipv4
        if random.random() < 0.15:
            outer = random.choice(_PLACES).ip(random.choice(places.FAMILIES))
        vni = random.choice(_VNIS) if random.random() < 0.2 else source.identity
        tunnel = outer, vni
    return Send(program, frame, "", tunnel)


def _draw_frame(random: Random, source: Place, destination: Place) -> bytes:
    family = random.choice(places.FAMILIES)
    chance = random.random()
    if chance < 0.04:
        ethertype = random.choice((packets.ETH_IPV4, packets.ETH_IPV6, packets.ETH_ARP, packets.ETH_VLAN))
        noise = random.randbytes(random.randrange(60, 200))
        return packets.ethernet(random.randbytes(6), source.mac, ethertype, noise)
    if chance < 0.07:
        body = packets.arp(random.randrange(4), source.mac, random.choice(_PLACES).ipv4, NODE.ipv4)
        return packets.ethernet(b"\xff" * 6, source.mac, packets.ETH_ARP, body)
    protocol, payload = _draw_l4(random, family, source, destination)
    if random.random() < 0.1:
        payload += bytes(random.choice((1230, 1290, 1310, 1330, 1380, random.randrange(1200, 2900))))
    payload = packets.with_checksum(source.ip(family), destination.ip(family), protocol, payload)
    if protocol == packets.UDP and random.random() < 0.2:
        payload = places.changed(payload, 6, bytes(2))  # no checksum
    if family == 4:
        options = random.randbytes(4 * random.randrange(11)) if random.random() < 0.1 else b""
        fragment = random.choice((0x2000, 0x2000, 0x4000, 0x8000, 0x00B9, 2)) if random.random() < 0.15 else 0
        layer = packets.ipv4(source.ipv4, destination.ipv4, protocol, payload, options=options, fragment=fragment)
    else:
        extensions = [_draw_extension(random) for _ in range(random.choice((0, 0, 0, 0, 1, 2, 5, 6)))]
        layer = packets.ipv6(source.ipv6, destination.ipv6, protocol, payload, extensions=extensions)
    return places.framed(source, family, layer)


def _draw_extension(random: Random) -> packets.Extension:
    if random.random() < 0.2:
        return packets.fragment_header(random.choice((0, 0, 1, 9)), random.random() < 0.7)
    kind = random.choice((0, 43, 60, 60, 51))
    return kind, bytes(6 + random.randrange(4) * 8)


def _draw_l4(random: Random, family: int, source: Place, destination: Place) -> tuple[int, bytes]:
    ports = random.choice(_PORTS), random.choice(_PORTS)
    chance = random.random()
    if chance < 0.4:
        return packets.TCP, packets.tcp(*ports, random.choice((2, 2, 16, 18, 17, 4, random.randrange(256))))
    if chance < 0.6:
        return packets.UDP, packets.udp(*ports)
    if chance < 0.65:
        return packets.SCTP, packets.sctp(*ports)
    if chance < 0.7:
        return random.randrange(256), random.randbytes(random.randrange(40))
    if chance < 0.85:
        kind = random.choice((0, 8) if family == 4 else (128, 129))
        return places.icmp_protocol(family), packets.icmp(kind, 0, random.choice((0, 7, 8)))
    if chance < 0.9:
        kind = random.choice((135, 136, 133, 134, 143, random.randrange(256)))
        return places.icmp_protocol(family), packets.neighbor(kind, random.choice(_PLACES).ipv6, source.mac)
    about = _draw_quoted(random, family, destination)
    kind = random.choice((3, 11, 12) if family == 4 else (1, 2, 3, 4))
    return places.icmp_protocol(family), packets.icmp_error(
        kind, about[: random.choice((99, 99, random.randrange(99)))]
    )


def _draw_quoted(random: Random, family: int, receiver: Place) -> bytes:
    """What the receiver of the error may have sent."""
    to = random.choice(_PLACES)
    ports = random.choice(_PORTS), random.choice(_PORTS)
    protocol, payload = random.choice(
        (
            (packets.TCP, packets.tcp(*ports)),
            (packets.UDP, packets.udp(*ports)),
            (places.icmp_protocol(family), packets.icmp(8 if family == 4 else 128, 0, 7)),
        )
    )
    return packets.ip(receiver.ip(family), to.ip(family), protocol, payload)


def _answer(random: Random, step: Send) -> Send:
    """The packet with its ends exchanged, by the program that would see it; or an error about it."""
    frame = step.frame
    family = 4 if frame[12:14] == b"\x08\x00" else 6
    at, size = (26, 4) if family == 4 else (22, 16)
    if len(frame) < at + 2 * size + 4:
        return step
    ends = {place.ip(family): place for place in _PLACES}
    raw = frame[at : at + size], frame[at + size : at + 2 * size]
    tag = 0 if family == 4 else 1 << 128
    source, destination = (ends.get(tag | int.from_bytes(each, "big")) for each in raw)
    if source is None or destination is None:
        return step
    program = _program_of(random, destination)
    if random.random() < 0.2:
        back = places.unreachable(destination, source, family, frame, random.choice((-1, -1, random.randrange(60))))
    else:
        l4 = at + 2 * size
        ports = frame[l4 + 2 : l4 + 4] + frame[l4 : l4 + 2]
        kind = {8: 0, 0: 8, 128: 129, 129: 128}.get(frame[l4], frame[l4])
        if frame[23 if family == 4 else 20] == places.icmp_protocol(family):
            ports = bytes((kind,)) + frame[l4 + 1 : l4 + 4]
        back = places.changed(frame, at, raw[1] + raw[0] + ports)
        back = places.changed(back, 6, destination.mac)
    return _send(random, program, destination, source, back)


def _program_of(random: Random, source: Place) -> str:
    if source in (A, B):
        return "from_endpoint"
    if source in (REMOTE, REMOTE_BY_IPV6, NEWCOMER):
        return "overlay"
    return "to_endpoint" if source is NODE else random.choice(("from_netdev", "from_netdev", "to_endpoint"))


def _mutated(random: Random, frame: bytes) -> bytes:
    """Bytes changed, cut off, or put in; what is left is at least what BPF_PROG_TEST_RUN takes."""
    changed = bytearray(frame)
    for _ in range(random.choice((1, 1, 2, 5))):
        at = random.randrange(len(changed))
        changed[at] = random.choice((0, 255, changed[at] ^ 1 << random.randrange(8), random.randrange(256)))
    if random.random() < 0.3:
        del changed[random.randrange(14, len(changed)) :]
    if random.random() < 0.1:
        at = random.randrange(14, len(changed) + 1)
        changed[at:at] = random.randbytes(random.randrange(1, 9))
    shortest = {b"\x08\x00": 34, b"\x86\xdd": 54}.get(bytes(changed[12:14]), 15)
    return bytes(changed) + bytes(max(shortest - len(changed), 0))
