"""A node that masquerades, from three ports: what leaves with its address, and what comes back to it."""

from collections.abc import Iterator

from tests.datapath import packets, places
from tests.datapath.check import EXPIRE, Answer, Check, Complaint, Send, Step
from tests.datapath.model.state import Tables
from tests.datapath.places import (
    CIDR,
    FAMILIES,
    NODE,
    OTHER_NODE,
    REMOTE,
    TUNNEL_PORT,
    WORLD,
    A,
    B,
    Place,
    echo,
    icmp_protocol,
    packet,
    tcp,
    udp,
)

_FULL = "NO_MAPPING_FOR_NAT_MASQUERADE"
_NOT_SO = "UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE"


def checks() -> Iterator[Check]:
    for family in FAMILIES:
        yield from _there_and_back(family)
        yield from _ports(family)
        yield from _errors(family)
        yield from _what_cannot(family)
        yield from _whose(family)


def _out(frame: bytes, expected: str = "redirect") -> Send:
    return Send("from_endpoint", frame, expected)


def _sctp(source: Place, destination: Place, family: int) -> bytes:
    return packet(source, destination, family, packets.SCTP, packets.sctp(40000, 80))


def _there_and_back(family: int) -> Iterator[Check]:
    frames = {
        "TCP": tcp(A, WORLD, family),
        "UDP": udp(A, WORLD, family),
        "UDP without a checksum": _unsummed(udp(A, WORLD, family), family),
        "SCTP": _sctp(A, WORLD, family),
        "an echo": echo(A, WORLD, family),
    }
    for name, frame in frames.items():
        yield Check(f"{name} over IPv{family} to what is outside and back, twice",
                    [_out(frame), Answer("redirect"), _out(frame), Answer("redirect")])  # fmt: skip
        yield Check(f"{name} over IPv{family} comes back when the connection is forgotten",
                    [_out(frame), EXPIRE, Answer("redirect")])  # fmt: skip
    for place, expected in ((REMOTE, "redirect"), (OTHER_NODE, "redirect"), (NODE, "pass"), (B, "redirect")):
        yield Check(f"what is of the cluster stays as it is over IPv{family}, {place.identity}",
                    [_out(tcp(A, place, family), expected)])  # fmt: skip
    yield Check(f"a CIDR over IPv{family}, exempt if IPv4", [_out(tcp(A, CIDR, family))])
    yield Check(f"a pod sends over IPv{family} to the tunnel's port of what is outside",
                [_out(udp(A, WORLD, family, (40000, TUNNEL_PORT)), "ENCAPSULATION")])  # fmt: skip
    opened = Send("from_netdev", tcp(WORLD, A, family, ports=(80, 40000)), "redirect")
    yield Check(f"an answer over IPv{family} to what was opened from outside stays as it is",
                [opened, _out(tcp(A, WORLD, family, packets.SYN | packets.ACK))])  # fmt: skip
    for port in (9999, 10000, 10002, 10003):
        yield Check(f"to port {port} of the node over IPv{family}, nobody's",
                    [Send("from_netdev", tcp(WORLD, NODE, family, ports=(80, port)), "pass")])  # fmt: skip


def _unsummed(frame: bytes, family: int) -> bytes:
    return places.changed(frame, (34 if family == 4 else 54) + 6, bytes(2))


def _ports(family: int) -> Iterator[Check]:
    """Each of the three ports is one connection's to a peer, as long as that is remembered."""
    four = [udp(A, WORLD, family, (port, 53)) for port in range(40000, 40004)]
    three: list[Step] = [_out(frame) for frame in four[:3]]
    yield Check(f"no port is left over IPv{family}", [*three, _out(four[3], _FULL), _out(four[0])])
    yield Check(f"another peer has all of them over IPv{family}",
                [*three, _out(udp(B, WORLD, family, (40003, 54))), Answer("redirect")])  # fmt: skip
    yield Check(f"ports of connections that are forgotten are taken over IPv{family}",
                [*three, EXPIRE, _out(four[3]), Answer("redirect")])  # fmt: skip
    yield Check(f"SCTP keeps its port over IPv{family}, which two pods cannot have",
                [_out(_sctp(A, WORLD, family)), _out(_sctp(B, WORLD, family), _FULL)])  # fmt: skip


def _errors(family: int) -> Iterator[Check]:
    for name, frame in (
        ("TCP", tcp(A, WORLD, family)),
        ("UDP", udp(A, WORLD, family)),
        ("SCTP", _sctp(A, WORLD, family)),
        ("an echo", echo(A, WORLD, family)),
    ):
        for quoted in (8, 64):
            yield Check(f"an error over IPv{family} about {name} with {quoted} bytes comes to the pod",
                        [_out(frame), Complaint("redirect", quoted)])  # fmt: skip
    reply = places.tcp(WORLD, A, family, packets.SYN | packets.ACK, (80, 40000))
    complaint = places.unreachable(A, WORLD, family, reply)
    yield Check(f"an error over IPv{family} of the pod about a reply",
                [_out(tcp(A, WORLD, family)), Answer("redirect"), _out(complaint)])  # fmt: skip
    yield Check(f"an error over IPv{family} of the pod about nothing", [_out(complaint, _NOT_SO)])


def _what_cannot(family: int) -> Iterator[Check]:
    yield Check(f"an echo reply over IPv{family} that nobody asked for", [_out(echo(A, WORLD, family, True), _FULL)])
    kind = 13 if family == 4 else 140
    frame = packet(A, WORLD, family, icmp_protocol(family), packets.icmp(kind))
    yield Check(f"other ICMP over IPv{family}", [_out(frame, _NOT_SO)])


def _whose(family: int) -> Iterator[Check]:
    """The next endpoint with the address of one that is gone has no mappings of it."""

    def another(tables: Tables) -> None:
        tables.endpoints[A.ip(family)] = tables.endpoints[A.ip(family)]._replace(endpoint_id=99)

    def closed(tables: Tables) -> None:
        places.enforce(tables, A, 3, revision=2)

    yield Check(f"what comes back over IPv{family} is not for another endpoint with the pod's address",
                [_out(tcp(A, WORLD, family)), another, Answer("pass")])  # fmt: skip
    yield Check(f"what comes back over IPv{family} is judged",
                [_out(udp(A, WORLD, family)), closed, Answer("POLICY_DENIED")])  # fmt: skip
