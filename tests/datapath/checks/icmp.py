"""ICMP that is no echo: errors about connections, errors about nothing, and the rest."""

from collections.abc import Iterator

from tests.datapath import packets, places
from tests.datapath.check import EXPIRE, Check, Send
from tests.datapath.checks.connections import revise
from tests.datapath.model.state import Tables
from tests.datapath.places import (
    ALLOW,
    EGRESS,
    FAMILIES,
    INGRESS,
    NODE,
    OTHER_NODE,
    REMOTE,
    WORLD,
    A,
    B,
    Place,
    echo,
    icmp_protocol,
    packet,
    row,
    tcp,
    udp,
    unreachable,
)

_ERRORS = {4: (3, 11, 12), 6: (1, 2, 3, 4)}
_LINK = {130, 131, 132, 133, 134, 135, 136, 137, 143}


def _closed() -> Tables:
    """A may open to all, nobody to A; B may be asked by A."""
    made = places.tables()
    for place in (A, B):
        places.enforce(made, place, 3)
    made.policy[row(A, EGRESS)] = ALLOW
    made.policy[row(B, INGRESS, A.identity)] = ALLOW
    return made


def checks() -> Iterator[Check]:
    for family in FAMILIES:
        yield from _types(family)
        yield from _related(family)
        yield from _quotes(family)
        yield from _by_neighbors(family)


def _types(family: int) -> Iterator[Check]:
    """All types, where policy has nothing against them and where nothing is allowed."""
    closed = _closed()
    for kind in range(256):
        frame = packet(A, B, family, icmp_protocol(family), packets.icmp(kind, rest=bytes(32)))
        link = family == 6 and kind in _LINK
        expected = "FORBIDDEN_ICMPV6" if link else "redirect"
        yield Check(f"ICMP type {kind} over IPv{family}", [Send("from_endpoint", frame, expected)])
        back = packet(B, A, family, icmp_protocol(family), packets.icmp(kind, rest=bytes(32)))
        refused = expected if link else "POLICY_DENIED"
        yield Check(f"ICMP type {kind} over IPv{family}, refused", [Send("from_endpoint", back, refused)], closed)


def _related(family: int) -> Iterator[Check]:
    """A has sent to the world; a router on the way complains."""
    router = Place(WORLD.ipv4 + 1, WORLD.ipv6 + 1, 2)
    for name, sent in (
        ("TCP", tcp(A, WORLD, family)),
        ("UDP", udp(A, WORLD, family)),
        ("SCTP", packet(A, WORLD, family, packets.SCTP, packets.sctp(1, 2))),
        ("an echo", echo(A, WORLD, family)),
    ):
        opened = Send("from_endpoint", sent, "redirect")
        for kind in _ERRORS[family]:
            payload = packets.icmp_error(kind, sent[14 : 42 if family == 4 else 62])
            error = packet(router, A, family, icmp_protocol(family), payload)
            title = f"IPv{family}: error {kind} about {name}"
            yield Check(f"{title}", [opened, Send("from_netdev", error, "redirect")], _closed())
            yield Check(f"{title} that nobody sent", [Send("from_netdev", error, "POLICY_DENIED")], _closed())
            yield Check(f"{title} after its time", [opened, EXPIRE, Send("from_netdev", error, "POLICY_DENIED")],
                        _closed())  # fmt: skip
            yield Check(f"{title} after a change", [opened, revise(A), Send("from_netdev", error, "POLICY_DENIED"),
                        opened, Send("from_netdev", error, "redirect")], _closed())  # fmt: skip
            yield Check(f"{title} by the node's stack", [opened, Send("to_endpoint", error, "pass")], _closed())
            elsewhere = packet(router, B, family, icmp_protocol(family), payload)
            yield Check(f"{title} to another pod", [opened, Send("from_netdev", elsewhere, "POLICY_DENIED")],
                        _closed())  # fmt: skip


def _quotes(family: int) -> Iterator[Check]:
    sent = tcp(A, WORLD, family)
    opened = Send("from_endpoint", sent, "redirect")
    whole = 28 if family == 4 else 48
    for quoted in range(len(sent) - 14 + 1):
        expected = "redirect" if quoted >= whole else "POLICY_DENIED"
        error = unreachable(WORLD, A, family, sent, quoted)
        yield Check(f"IPv{family}: {quoted} bytes of a connection's packet are quoted",
                    [opened, Send("from_netdev", error, expected)], _closed())  # fmt: skip
    for name, about in (
        ("another port", tcp(A, WORLD, family, ports=(40001, 80))),
        ("another destination", tcp(A, NODE, family)),
        ("another protocol", udp(A, WORLD, family, (40000, 80))),
        ("the other direction", tcp(WORLD, A, family, ports=(80, 40000))),
    ):
        error = unreachable(WORLD, A, family, about)
        yield Check(f"IPv{family}: {name} is quoted", [opened, Send("from_netdev", error, "POLICY_DENIED")], _closed())
    if family == 6:
        extended = packets.ipv6(A.ipv6, WORLD.ipv6, 6, packets.tcp(40000, 80), extensions=[(60, b"")])
        first, later = (
            packets.ipv6(A.ipv6, WORLD.ipv6, 6, packets.tcp(40000, 80), extensions=[packets.fragment_header(offset)])
            for offset in (0, 3)
        )
        for name, layer, expected in (
            ("options", extended, "redirect"),
            ("the header of a first fragment", first, "redirect"),
            ("the header of a later fragment", later, "POLICY_DENIED"),
        ):
            error = packet(WORLD, A, 6, packets.ICMPV6, packets.icmp_error(1, layer))
            yield Check(f"IPv6: a packet with {name} is quoted", [opened, Send("from_netdev", error, expected)],
                        _closed())  # fmt: skip
    else:
        for place, expected in ((0x2000, "redirect"), (0x2003, "POLICY_DENIED"), (0x00B9, "POLICY_DENIED")):
            layer = packets.ipv4(A.ipv4, WORLD.ipv4, 6, packets.tcp(40000, 80), fragment=place)
            error = packet(WORLD, A, 4, packets.ICMP, packets.icmp_error(3, layer))
            yield Check(f"IPv4: a fragment {place:x} is quoted", [opened, Send("from_netdev", error, expected)],
                        _closed())  # fmt: skip
        layer = packets.ipv4(A.ipv4, WORLD.ipv4, 6, packets.tcp(40000, 80), options=bytes(12))
        error = packet(WORLD, A, 4, packets.ICMP, packets.icmp_error(3, layer))
        yield Check(
            "IPv4: a packet with options is quoted", [opened, Send("from_netdev", error, "redirect")], _closed()
        )


def _by_neighbors(family: int) -> Iterator[Check]:
    """Pods complain to one another, of what was sent to themselves alone."""
    sent = udp(A, B, family)
    opened = Send("from_endpoint", sent, "redirect")
    yield Check(f"IPv{family}: B complains of what A sent to it",
                [opened, Send("from_endpoint", unreachable(B, A, family, sent), "redirect")], _closed())  # fmt: skip
    about = udp(A, WORLD, family)
    yield Check(f"IPv{family}: B complains of what A sent to others",
                [opened, Send("from_endpoint", about, "redirect"),
                 Send("from_endpoint", unreachable(B, A, family, about), "POLICY_DENIED")], _closed())  # fmt: skip
    for subject in (A, B):
        yield Check(f"IPv{family}: B complains after the policy of {subject.identity} has changed",
                    [opened, revise(subject), Send("from_endpoint", unreachable(B, A, family, sent), "POLICY_DENIED")],
                    _closed())  # fmt: skip
    tunnel = OTHER_NODE.ipv4, REMOTE.identity
    sent = udp(A, REMOTE, family)
    yield Check(f"IPv{family}: another node's pod complains",
                [Send("from_endpoint", sent, "redirect"),
                 Send("overlay", unreachable(REMOTE, A, family, sent), "redirect", tunnel)], _closed())  # fmt: skip
