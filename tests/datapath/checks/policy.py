"""What rows say: tiers, precedence, protocols, ports, any peer."""

from collections.abc import Iterator

from tests.datapath import places
from tests.datapath.check import Check, Send
from tests.datapath.model.state import SUBJECT_UNKNOWN, Row
from tests.datapath.packets import SCTP, TCP, UDP, sctp
from tests.datapath.places import (
    ALLOW,
    CIDR,
    DENY,
    EGRESS,
    FAMILIES,
    GO_ON,
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
)

NORMAL, ADMIN, BASELINE = 0, 1, 2
_ANY = 0
_DENIED, _DENY, _PASSES = "POLICY_DENIED", "POLICY_DENY", "redirect"


def _check(name: str, rows: dict[Row, int], expected: str, frame: bytes, flags: int = 1) -> Check:
    """Rows of B, from A to B; ingress is enforced."""
    made = places.tables()
    places.enforce(made, B, flags)
    made.policy = rows
    return Check(name, [Send("from_endpoint", frame, expected)], made)


def checks() -> Iterator[Check]:
    for family in FAMILIES:
        yield from _plain(family)
        yield from _ports(family)
        yield from _tiers(family)
        yield from _subjects(family)
        yield from _peers(family)
        yield from _both_ends(family)


def _plain(family: int) -> Iterator[Check]:
    frame, a = tcp(A, B, family), A.identity
    other = icmp_protocol(10 - family)
    for name, rows, expected in (
        ("no row", {}, _DENIED),
        ("the peer", {row(B, INGRESS, a): ALLOW}, _PASSES),
        ("any peer", {row(B, INGRESS): ALLOW}, _PASSES),
        ("another peer", {row(B, INGRESS, REMOTE.identity): ALLOW}, _DENIED),
        ("the other direction", {row(B, EGRESS, a): ALLOW}, _DENIED),
        ("another subject", {row(A, INGRESS, a): ALLOW}, _DENIED),
        ("another table", {row(B, INGRESS, a)._replace(table=2): ALLOW}, _DENIED),
        ("the peer, denied", {row(B, INGRESS, a): DENY}, _DENY),
        ("any peer, denied", {row(B, INGRESS): DENY}, _DENY),
        ("the peer, any peer denied", {row(B, INGRESS, a): ALLOW, row(B, INGRESS): DENY}, _DENY),
        ("any peer, the peer denied", {row(B, INGRESS): ALLOW, row(B, INGRESS, a): DENY}, _DENY),
        ("the protocol", {row(B, INGRESS, a, TCP): ALLOW}, _PASSES),
        ("another protocol", {row(B, INGRESS, a, UDP): ALLOW}, _DENIED),
        ("ICMP of the other family", {row(B, INGRESS, a, other): ALLOW}, _DENIED),
        ("precedence over a deny", {row(B, INGRESS, a): 1 << 2 | ALLOW, row(B, INGRESS): DENY}, _PASSES),
        ("a deny of more precedence", {row(B, INGRESS, a): 1 << 2 | ALLOW, row(B, INGRESS): 2 << 2 | DENY}, _DENY),
    ):
        yield _check(f"IPv{family}: allowed is {name}", rows, expected, frame)
    yield _check(f"IPv{family}: nothing is enforced", {}, _PASSES, frame, 0)
    yield _check(f"IPv{family}: nothing is enforced, a row denies", {row(B, INGRESS): DENY}, _PASSES, frame, 0)
    yield _check(f"IPv{family}: egress alone is enforced", {}, _PASSES, frame, 2)


def _ports(family: int) -> Iterator[Check]:
    a = A.identity
    for port, exact in ((80, 16), (80, 12), (64, 10), (0, 8), (0, 1), (0, 0)):
        for sent in (0, 63, 64, 79, 80, 81, 95, 96, 127, 128, 255, 256, 32767, 32768, 65535):
            inside = port >> (16 - exact) == sent >> (16 - exact)
            yield _check(f"IPv{family}: {exact} bits of port {port} are allowed, port {sent}",
                         {row(B, INGRESS, a, TCP, port, exact): ALLOW}, _PASSES if inside else _DENIED,
                         tcp(A, B, family, ports=(40000, sent)))  # fmt: skip
    frame = tcp(A, B, family)
    for name, rows, expected in (
        ("the port within a range denied", {row(B, INGRESS, a, TCP, 80): ALLOW, row(B, INGRESS, a, TCP, 0, 8): DENY},
         _PASSES),
        ("all of the protocol, the port denied", {row(B, INGRESS, a, TCP): ALLOW, row(B, INGRESS, a, TCP, 80): DENY},
         _DENY),
        ("all, the protocol denied", {row(B, INGRESS, a): ALLOW, row(B, INGRESS, a, TCP): DENY}, _DENY),
        ("the protocol, all denied", {row(B, INGRESS, a, TCP): ALLOW, row(B, INGRESS, a): DENY}, _PASSES),
        ("the port, of any peer denied", {row(B, INGRESS, a, TCP, 80): ALLOW, row(B, INGRESS, _ANY, TCP, 80): DENY},
         _DENY),
    ):  # fmt: skip
        yield _check(f"IPv{family}: allowed is {name}", rows, expected, frame)
    others = ((UDP, udp(A, B, family, (40000, 80))), (SCTP, packet(A, B, family, SCTP, sctp(40000, 80))))
    for protocol, other in others:
        for allowed in (protocol, TCP):
            yield _check(f"IPv{family}: allowed is port 80 of protocol {allowed}, protocol {protocol}",
                         {row(B, INGRESS, a, allowed, 80): ALLOW}, _PASSES if allowed == protocol else _DENIED,
                         other)  # fmt: skip
    for kind in (8, 128):
        right = kind == (8 if family == 4 else 128)
        rows = {row(B, INGRESS, a, icmp_protocol(family), kind): ALLOW}
        yield _check(f"IPv{family}: allowed is ICMP type {kind}, an echo request", rows,
                     _PASSES if right else _DENIED, echo(A, B, family))  # fmt: skip


_TIERS = {ADMIN: 4, NORMAL: 1, BASELINE: 16}  # the flag of each, of ingress


def _tiers(family: int) -> Iterator[Check]:
    """Of every tier it is silent, denies, allows, or goes on; the first that decides."""
    frame = tcp(A, B, family)
    words = {"no row": None, "allow": ALLOW, "deny": DENY, "go on": 1 << 2 | GO_ON}
    for admin, its_admin in words.items():
        for normal, its_normal in words.items():
            for baseline, its_baseline in words.items():
                rows = {
                    row(B, INGRESS, A.identity, tier=tier): value
                    for tier, value in ((ADMIN, its_admin), (NORMAL, its_normal), (BASELINE, its_baseline))
                    if value is not None
                }
                expected = _first_word(admin, normal, baseline)
                yield _check(f"IPv{family}: admin says {admin}, normal {normal}, baseline {baseline}", rows, expected,
                             frame, sum(_TIERS.values()))  # fmt: skip
    for tier, flag in _TIERS.items():
        others = sum(_TIERS.values()) - flag
        rows = {row(B, INGRESS, A.identity, tier=tier): DENY}
        expected = _DENIED if others & 1 else _PASSES
        yield _check(f"IPv{family}: tier {tier} has a row and does not speak", rows, expected, frame, others)


def _first_word(admin: str, normal: str, baseline: str) -> str:
    for tier in (admin, normal, baseline):
        if tier in ("allow", "deny"):
            return _PASSES if tier == "allow" else _DENY
        if tier is normal and tier == "no row" and admin in ("no row", "go on"):
            return _DENIED
    return _PASSES


def _subjects(family: int) -> Iterator[Check]:
    for place in (A, B):
        made = places.tables()
        del made.subjects[place.identity]
        yield Check(f"IPv{family}: {place.identity} has no policy yet",
                    [Send("from_endpoint", tcp(A, B, family), "NO_POLICY")], made)  # fmt: skip
        made = places.tables()
        places.enforce(made, place, SUBJECT_UNKNOWN)
        yield Check(f"IPv{family}: {place.identity} is nobody the log knows",
                    [Send("from_endpoint", tcp(A, B, family), "NO_POLICY")], made)  # fmt: skip
    made = places.tables()
    del made.subjects[B.identity]
    tunnel = OTHER_NODE.ipv4, REMOTE.identity
    yield Check(f"IPv{family}: no policy yet, from wherever", [
        Send("to_endpoint", tcp(NODE, B, family), "NO_POLICY"),
        Send("from_netdev", tcp(WORLD, B, family), "NO_POLICY"),
        Send("overlay", tcp(REMOTE, B, family), "NO_POLICY", tunnel),
    ], made)  # fmt: skip


def _peers(family: int) -> Iterator[Check]:
    """Who the peer is, by every way to a pod and out of it."""
    outside = 2 if family == 4 else 10
    ways: list[tuple[str, Place, int, str]] = [
        ("to_endpoint", NODE, 1, "pass"),
        ("to_endpoint", OTHER_NODE, 6, "pass"),
        ("from_netdev", WORLD, outside, "redirect"),
        ("from_netdev", CIDR, CIDR.identity, "redirect"),
        ("from_netdev", OTHER_NODE, 6, "redirect"),
        ("overlay", REMOTE, REMOTE.identity, "redirect"),
    ]
    for program, place, identity, passes in ways:
        tunnel = (OTHER_NODE.ipv4, REMOTE.identity) if program == "overlay" else None
        for allowed in sorted({identity, 1, 2, 6, 10}):
            made = places.tables()
            places.enforce(made, B, 1)
            made.policy[row(B, INGRESS, allowed)] = ALLOW
            yield Check(f"IPv{family}: {program} from {identity}, allowed is {allowed}",
                        [Send(program, tcp(place, B, family), passes if allowed == identity else _DENIED, tunnel)],
                        made)  # fmt: skip
    for place, identity in ((NODE, 1), (OTHER_NODE, 6), (WORLD, outside), (CIDR, CIDR.identity), (REMOTE, 1003)):
        for allowed in sorted({identity, 1, 2, 6, 10}):
            made = places.tables()
            places.enforce(made, A, 2)
            made.policy[row(A, EGRESS, allowed)] = ALLOW
            passes = "pass" if place is NODE else "redirect"
            yield Check(f"IPv{family}: to {identity}, allowed is {allowed}",
                        [Send("from_endpoint", tcp(A, place, family), passes if allowed == identity else _DENIED)],
                        made)  # fmt: skip


def _both_ends(family: int) -> Iterator[Check]:
    for leaves in (True, False):
        for enters in (True, False):
            made = places.tables()
            places.enforce(made, A, 2)
            places.enforce(made, B, 1)
            if leaves:
                made.policy[row(A, EGRESS, B.identity)] = ALLOW
            if enters:
                made.policy[row(B, INGRESS, A.identity)] = ALLOW
            yield Check(f"IPv{family}: its own policy lets A out: {leaves}, B's lets it in: {enters}",
                        [Send("from_endpoint", tcp(A, B, family), _PASSES if leaves and enters else _DENIED)],
                        made)  # fmt: skip
