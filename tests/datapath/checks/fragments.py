"""Fragments of both families, by every program: a later one follows the first, and none but it."""

from collections.abc import Iterator

from tests.datapath import packets, places
from tests.datapath.check import EXPIRE, Check, Send
from tests.datapath.checks.connections import revise
from tests.datapath.checks.protocols import WAYS
from tests.datapath.places import ALLOW, EGRESS, FAMILIES, A, B, Place, framed, icmp_protocol, row

_UDP = packets.udp(40000, 53, bytes(16))
_LATER = bytes(24)


def _piece(
    family: int,
    payload: bytes,
    offset: int = 0,
    more: bool = True,
    *,
    protocol: int = packets.UDP,
    source: Place = A,
    number: int = 7,
    before: bool = False,
    length: int | None = None,
) -> bytes:
    """`offset` in units of eight bytes; `before`: behind options, `length`: what IP says it carries."""
    ends = source.ip(family), B.ip(family)
    if family == 4:
        total = None if length is None else 20 + length
        layer = packets.ipv4(*ends, protocol, payload, fragment=more << 13 | offset, total_length=total, number=number)
    else:
        options: list[packets.Extension] = [(packets.DESTINATION, b"")] if before else []
        header = packets.fragment_header(offset, more, number)
        said = None if length is None else 8 * (1 + before) + length
        layer = packets.ipv6(*ends, protocol, payload, extensions=[*options, header], payload_length=said)
    return framed(source, family, layer)


def checks() -> Iterator[Check]:
    for family in FAMILIES:
        for program, (source, passes, tunnel) in WAYS.items():
            yield from _ways(family, program, source, passes, tunnel)
        yield from _orders(family)
        yield from _protocols(family)
        yield from _short(family)
    yield from _headers_of_ipv6()


def _ways(family: int, program: str, source: Place, passes: str, tunnel: tuple[int, int] | None) -> Iterator[Check]:
    def send(expected: str, payload: bytes, offset: int = 0, more: bool = True, number: int = 7) -> Send:
        return Send(program, _piece(family, payload, offset, more, source=source, number=number), expected, tunnel)

    name = f"{program}: IPv{family}"
    yield Check(f"{name}, a last fragment alone", [send("NO_FIRST_FRAGMENT", _LATER, 9, False)])
    yield Check(f"{name}, the greatest offset", [send("NO_FIRST_FRAGMENT", _LATER, 0x1FFF, False)])
    yield Check(
        f"{name}, in order",
        [send(passes, _UDP), send(passes, _LATER, 3), send(passes, _LATER, 6, False), send(passes, _LATER, 3)],
    )
    yield Check(f"{name}, of another packet", [send(passes, _UDP), send("NO_FIRST_FRAGMENT", _LATER, 3, number=8)])


def _out(frame: bytes, expected: str = "redirect") -> Send:
    return Send("from_endpoint", frame, expected)


def _orders(family: int) -> Iterator[Check]:
    first, later = _out(_piece(family, _UDP)), _out(_piece(family, _LATER, 3))
    lost = later._replace(expected="NO_FIRST_FRAGMENT")
    yield Check(f"IPv{family}: a later fragment before the first", [lost, first, later])
    yield Check(f"IPv{family}: a first fragment's time has passed", [first, EXPIRE, lost, first, later])
    whole, other = _out(places.udp(A, B, family)), _out(_piece(family, _LATER, 3, number=8))
    second = _out(_piece(family, _UDP, number=8))
    yield Check(f"IPv{family}: on a connection that goes the short way", [whole] * 3 + [first, later, second, other])
    yield Check(f"IPv{family}: from another source", [first, _out(_piece(family, _LATER, 3, source=B), lost.expected)])
    made = places.tables()
    places.enforce(made, A, 2)
    made.policy[row(A, EGRESS, 0, packets.UDP, 53)] = ALLOW
    refused = _out(_piece(family, packets.udp(40000, 54, bytes(16)), number=8), "POLICY_DENIED")
    yield Check(
        f"IPv{family}: of a refused one nothing passes",
        [refused, _out(_piece(family, _LATER, 3, number=8), "NO_FIRST_FRAGMENT"), first, later],
        made,
    )
    denied = later._replace(expected="POLICY_DENY")
    yield Check(f"IPv{family}: refused in between", [first, later, revise(A, deny=True), denied], made)


def _protocols(family: int) -> Iterator[Check]:
    request, reply = (8, 0) if family == 4 else (128, 129)
    echo = icmp_protocol(family)
    for name, protocol, payload in (
        ("TCP", packets.TCP, packets.tcp(40000, 80, data=bytes(4))),
        ("SCTP", packets.SCTP, packets.sctp(40000, 80, bytes(12))),
        ("an echo", echo, packets.icmp(request, rest=bytes(16))),
        ("an echo reply", echo, packets.icmp(reply, rest=bytes(16))),
        ("an ICMP error", echo, packets.icmp(3 if family == 4 else 1, rest=bytes(16))),
        ("an unknown ICMP type", echo, packets.icmp(77, rest=bytes(16))),
    ):
        steps = [_out(_piece(family, payload, protocol=protocol))]
        steps += [_out(_piece(family, _LATER, at, protocol=protocol)) for at in (3, 6)]
        yield Check(f"IPv{family}: {name} in fragments", [*steps])
    unknown = _out(_piece(family, bytes(24), protocol=47), "CT_UNKNOWN_L4")
    lost = _out(_piece(family, _LATER, 3, protocol=47), "NO_FIRST_FRAGMENT")
    yield Check(f"IPv{family}: an unknown protocol in fragments", [unknown, lost])


def _short(family: int) -> Iterator[Check]:
    for offset in (1, 2, 3):
        expected = "FRAGMENT" if offset < 3 else "redirect"
        steps = [_out(_piece(family, _UDP)), _out(_piece(family, _LATER, offset), expected)]
        yield Check(f"IPv{family}: a later fragment at {offset * 8} bytes", [*steps])
    for name, protocol, payload, needed in (
        ("TCP", packets.TCP, packets.tcp(40000, 80, data=bytes(12)), 20),
        ("UDP", packets.UDP, packets.udp(40000, 53, bytes(24)), 8),
        ("SCTP", packets.SCTP, packets.sctp(40000, 80, bytes(20)), 8),
    ):
        for length in (0, needed - 1, needed, 32):
            expected = "redirect" if length >= needed else "FRAGMENT"
            frame = _piece(family, payload, protocol=protocol, length=length)
            yield Check(
                f"IPv{family}: a first fragment that says it has {length} bytes of {name}", [_out(frame, expected)]
            )
    for cut in (54, 58, 62, 66, 70):
        frame = _piece(family, packets.tcp(40000, 80), protocol=packets.TCP)
        expected = "redirect" if cut >= len(frame) else "FRAGMENT" if cut < 62 and family == 6 else "CT_INVALID_HEADER"
        yield Check(f"IPv{family}: a first fragment of TCP cut to {cut} bytes", [_out(frame[:cut], expected)])


def _headers_of_ipv6() -> Iterator[Check]:
    later = _out(_piece(6, _LATER, 3))
    yield Check("a whole packet with a fragment header (RFC 6946)",
                [_out(_piece(6, _UDP, more=False)), later._replace(expected="NO_FIRST_FRAGMENT")])  # fmt: skip
    yield Check(
        "fragments behind options", [_out(_piece(6, _UDP, before=True)), _out(_piece(6, _LATER, 3, before=True))]
    )
    twice = [packets.fragment_header(), packets.fragment_header()]
    layer = packets.ipv6(A.ipv6, B.ipv6, packets.UDP, _UDP, extensions=twice)
    yield Check("two fragment headers", [_out(framed(A, 6, layer), "FRAGMENT")])
    inside = [packets.fragment_header(), (packets.DESTINATION, b"")]
    layer = packets.ipv6(A.ipv6, B.ipv6, packets.UDP, _UDP, extensions=inside)
    last = packets.ipv6(A.ipv6, B.ipv6, packets.DESTINATION, _LATER, extensions=[packets.fragment_header(4, False)])
    yield Check("options in the first fragment", [_out(framed(A, 6, layer)), _out(framed(A, 6, last))])
    layer = packets.ipv6(A.ipv6, B.ipv6, packets.HOP_BY_HOP, bytes(40), extensions=[packets.fragment_header()])
    yield Check("hop-by-hop options in a fragment", [_out(framed(A, 6, layer), "INVALID_EXTHDR")])
