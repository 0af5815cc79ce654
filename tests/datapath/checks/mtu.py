"""What does not fit the way that it is to take."""

from collections.abc import Iterator

from tests.datapath import packets, places
from tests.datapath.check import Check, Send
from tests.datapath.model.state import ENDPOINT_AUDITED
from tests.datapath.places import (
    CIDR,
    FAMILIES,
    NODE,
    OTHER_NODE,
    REMOTE,
    REMOTE_BY_IPV6,
    STRANGER,
    THIRD_NODE,
    WORLD,
    A,
    B,
    Place,
    packet,
    tcp,
)

# Of devices 1,400 and, of the tunnel, 1,350; of the route to OTHER_NODE 1,385 less 50, of those to WORLD 1,320.
_ROOM = {
    4: {REMOTE: 1335, REMOTE_BY_IPV6: 1350, WORLD: 1320, CIDR: 1400, STRANGER: 1400, OTHER_NODE: 1385,
        THIRD_NODE: 1400},
    6: {REMOTE: 1335, REMOTE_BY_IPV6: 1350, WORLD: 1320, CIDR: 1400, STRANGER: 1400, OTHER_NODE: 1400,
        THIRD_NODE: 1400},
}  # fmt: skip
_MOST = 3000


def _long(source: Place, destination: Place, family: int, length: int, protocol: int = packets.UDP) -> bytes:
    """`length` bytes from the IP header on."""
    header = 20 if family == 4 else 40
    empty = {packets.UDP: packets.udp(40000, 53, b""), packets.TCP: packets.tcp(40000, 80)}.get(protocol, b"")
    return packet(source, destination, family, protocol, empty + bytes(length - header - len(empty)))


def checks() -> Iterator[Check]:
    for family in FAMILIES:
        for place, room in _ROOM[family].items():
            for length in (1280, 1281, room - 1, room, room + 1, 1500, _MOST):
                for protocol, name in ((packets.UDP, "UDP"), (packets.TCP, "TCP")):
                    frame = _long(A, place, family, length, protocol)
                    expected = "redirect" if length <= room else f"told {room}"
                    yield Check(f"{length} bytes of {name} over IPv{family} to {place.identity} {place.ip(family):x}",
                                [Send("from_endpoint", frame, expected)])  # fmt: skip
        yield from _all_fits(family)
        yield from _verdicts(family)
        yield from _answers(family)


def _all_fits(family: int) -> Iterator[Check]:
    for place, expected in ((B, "redirect"), (A, "redirect"), (NODE, "pass")):
        yield Check(f"{_MOST} bytes over IPv{family} that stay on the node, to {place.identity}",
                    [Send("from_endpoint", _long(A, place, family, _MOST), expected)])  # fmt: skip
    for program, source, tunnel in (
        ("overlay", REMOTE, (OTHER_NODE.ipv4, REMOTE.identity)),
        ("from_netdev", WORLD, None),
        ("to_endpoint", NODE, None),
    ):
        yield Check(f"{_MOST} bytes over IPv{family} by {program}",
                    [Send(program, _long(source, B, family, _MOST), "pass" if program == "to_endpoint" else "redirect",
                          tunnel)])  # fmt: skip


def _verdicts(family: int) -> Iterator[Check]:
    made = places.tables()
    places.enforce(made, A)
    for place in (REMOTE, WORLD):
        yield Check(f"what policy refuses over IPv{family} is told nothing of the way to {place.identity}",
                    [Send("from_endpoint", _long(A, place, family, _MOST), "POLICY_DENIED")], made)  # fmt: skip
    audited = places.tables()
    places.enforce(audited, A)
    endpoint = audited.endpoints[A.ip(family)]
    audited.endpoints[A.ip(family)] = endpoint._replace(flags=ENDPOINT_AUDITED)
    yield Check(f"what audit mode lets through over IPv{family} is told, too",
                [Send("from_endpoint", _long(A, WORLD, family, 1400), "told 1320")] * 2, audited)  # fmt: skip


def _answers(family: int) -> Iterator[Check]:
    """What does not fit opens its connection all the same: what fits goes on with it."""
    yield Check(f"over IPv{family} the second try is shorter",
                [Send("from_endpoint", _long(A, REMOTE, family, 1336), "told 1335"),
                 Send("from_endpoint", _long(A, REMOTE, family, 1335), "redirect")])  # fmt: skip
    yield Check(f"a long answer over IPv{family}",
                [Send("from_netdev", tcp(WORLD, A, family, ports=(80, 40000)), "redirect"),
                 Send("from_endpoint", _long(A, WORLD, family, 1400, packets.TCP), "told 1320")])  # fmt: skip
    message = places.unreachable(A, WORLD, family, _long(WORLD, A, family, _MOST), 1300)
    yield Check(f"over IPv{family} no error is the answer to an error",
                [Send("from_endpoint", message, "FRAGMENT")])  # fmt: skip
    options = packets.tcp(40000, 80, data=bytes(1400), options=bytes(40))
    yield Check(f"TCP options over IPv{family} count",
                [Send("from_endpoint", packet(A, REMOTE, family, packets.TCP, options), "told 1335")])  # fmt: skip
