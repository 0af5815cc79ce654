"""Sequences on one connection: replies, ends, reopening, changes of policy, audit mode."""

from collections.abc import Callable, Iterator

from tests.datapath import places
from tests.datapath.check import EXPIRE, Change, Check, Send, Step
from tests.datapath.model.state import ENDPOINT_AUDITED, Endpoint, Tables
from tests.datapath.packets import ACK, FIN, RST, SCTP, SYN, sctp
from tests.datapath.places import (
    ALLOW,
    DENY,
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
)

_PORTS, _BACK = (40000, 80), (80, 40000)
Packets = Callable[[bool], bytes]  # of A to B, or back


def _closed(*allowed: tuple[Place, int, Place]) -> Tables:
    """Both ends enforce both directions; allowed is what (subject, direction, peer) says."""
    made = places.tables()
    for place in (A, B):
        places.enforce(made, place, 3)
    for subject, direction, peer in allowed:
        made.policy[row(subject, direction, peer.identity)] = ALLOW
    return made


_A_TO_B = ((A, EGRESS, B), (B, INGRESS, A))


def _out(frame: bytes, expected: str = "redirect") -> Send:
    return Send("from_endpoint", frame, expected)


def revise(subject: Place, deny: bool = False) -> Change:
    """A new revision, and maybe all of the subject's rows become denials."""

    def change(tables: Tables) -> None:
        held = tables.subjects[subject.identity]
        tables.subjects[subject.identity] = held._replace(revision=held.revision + 1)
        for each in [each for each in tables.policy if deny and each.subject == subject.identity]:
            tables.policy[each] = DENY

    return change


def checks() -> Iterator[Check]:
    for family in FAMILIES:
        yield from _replies(family)
        yield from _tcp(family)
        yield from _changes(family)
        yield from _echoes(family)
        yield from _other_ways(family)
        yield from _audit(family)


def _both_ways(family: int) -> dict[str, tuple[bytes, bytes]]:
    return {
        "TCP": (tcp(A, B, family, SYN, _PORTS), tcp(B, A, family, SYN | ACK, _BACK)),
        "UDP": (udp(A, B, family, _PORTS), udp(B, A, family, _BACK)),
        "SCTP": (packet(A, B, family, SCTP, sctp(*_PORTS)), packet(B, A, family, SCTP, sctp(*_BACK))),
        "ICMP": (echo(A, B, family), echo(B, A, family, True)),
    }


def _replies(family: int) -> Iterator[Check]:
    for name, (there, back) in _both_ways(family).items():
        yield Check(f"{name} over IPv{family}: a reply needs no rule", [_out(there), _out(back), _out(there)],
                    _closed(*_A_TO_B))  # fmt: skip
        yield Check(f"{name} over IPv{family}: a reply to nothing", [_out(back, "POLICY_DENIED")], _closed(*_A_TO_B))
        yield Check(f"{name} over IPv{family}: a reply to what was refused",
                    [_out(there, "POLICY_DENIED"), _out(back, "POLICY_DENIED")], _closed(_A_TO_B[0]))  # fmt: skip
        yield Check(f"{name} over IPv{family}: a reply after its time",
                    [_out(there), EXPIRE, _out(back, "POLICY_DENIED"), _out(there), _out(back)],
                    _closed(*_A_TO_B))  # fmt: skip
    other_port = udp(B, A, family, (81, 40000))
    yield Check(f"UDP over IPv{family}: from another port", [_out(udp(A, B, family, _PORTS)),
                _out(other_port, "POLICY_DENIED")], _closed(*_A_TO_B))  # fmt: skip
    yield Check(f"IPv{family}: one port at both ends", [_out(udp(A, B, family, (53, 53))),
                _out(udp(B, A, family, (53, 53)))], _closed(*_A_TO_B))  # fmt: skip
    yield Check(f"IPv{family}: a pod to itself", [_out(udp(A, A, family, (53, 53))), _out(udp(A, A, family, (53, 54)))])
    yield Check(f"IPv{family}: a connection of the other family is another",
                [_out(tcp(A, B, family)), _out(tcp(B, A, 10 - family, SYN | ACK, _BACK), "POLICY_DENIED")],
                _closed(*_A_TO_B))  # fmt: skip


def _tcp(family: int) -> Iterator[Check]:
    def there(flags: int, expected: str = "redirect") -> Send:
        return _out(tcp(A, B, family, flags, _PORTS), expected)

    def back(flags: int, expected: str = "redirect") -> Send:
        return _out(tcp(B, A, family, flags, _BACK), expected)

    opened: list[Step] = [there(SYN), back(SYN | ACK), there(ACK)]
    sequences: dict[str, list[Step]] = {
        "opened and closed": [*opened, there(FIN | ACK), back(FIN | ACK), there(ACK)],
        "closed by the other end": [*opened, back(FIN | ACK), there(FIN | ACK), back(ACK)],
        "reset": [*opened, there(RST), back(ACK)],
        "reset by the other end": [*opened, back(RST), there(ACK)],
        "half closed": [*opened, there(FIN | ACK), back(ACK), back(ACK)],
        "refused": [there(SYN), back(RST | ACK), there(SYN)],
        "opened again when closing": [*opened, there(RST), there(SYN), back(SYN | ACK)],
        "a SYN again": [there(SYN), there(SYN), back(SYN | ACK)],
        "a SYN when it is open": [*opened, there(SYN)],
        "opened from the other end": [*opened, back(SYN, "POLICY_DENIED"), there(ACK)],
        "opened from the other end when closing": [*opened, back(RST), back(SYN, "POLICY_DENIED")],
        "from the middle": [there(ACK), back(ACK)],
        "from the middle of the other end": [back(ACK), there(ACK), back(ACK), back(SYN, "POLICY_DENIED")],
        "begun by SYN and ACK of the other end": [back(SYN | ACK, "POLICY_DENIED")],
        "begun by SYN and ACK": [there(SYN | ACK), back(ACK)],
        "no flags": [there(0), back(0)],
        "all flags": [there(0xFF), back(0xFF)],
        "after its time, mid-stream": [*opened, EXPIRE, there(ACK), back(ACK)],
        "after its time, mid-stream from the other end": [*opened, EXPIRE, back(ACK), there(ACK)],
    }
    for name, steps in sequences.items():
        yield Check(f"TCP over IPv{family}: {name}", steps, _closed(*_A_TO_B))
    for flags in range(64):
        yield Check(f"TCP over IPv{family}: flags {flags:06b}, answered, repeated",
                    [there(flags), back(SYN | ACK), there(flags)], _closed(*_A_TO_B))  # fmt: skip


def _changes(family: int) -> Iterator[Check]:
    for name, (there, back) in _both_ways(family).items():
        for subject in (A, B):
            title = f"{name} over IPv{family}: of {subject.identity}"
            yield Check(f"{title} another revision", [_out(there), _out(back), revise(subject), _out(back),
                        _out(there)], _closed(*_A_TO_B))  # fmt: skip
            yield Check(f"{title} the rule is taken back", [_out(there), _out(back), revise(subject, True),
                        _out(back, "POLICY_DENY"), _out(there, "POLICY_DENY"), _out(back, "POLICY_DENY")],
                        _closed(*_A_TO_B))  # fmt: skip

            def forget(tables: Tables, subject: Place = subject) -> None:
                del tables.subjects[subject.identity]

            yield Check(f"{title} the row goes", [_out(there), forget, _out(back, "NO_POLICY"),
                        _out(there, "NO_POLICY")], _closed(*_A_TO_B))  # fmt: skip

            def become(tables: Tables, subject: Place = subject) -> None:
                ip = subject.ip(family)  # noqa: B023
                tables.endpoints[ip] = Endpoint(places.LO, 1234, subject.endpoint_id)
                tables.subjects[1234] = tables.subjects[subject.identity]

            yield Check(f"{title} the identity is another", [_out(there), become, _out(there, "POLICY_DENIED"),
                        _out(back, "POLICY_DENIED")], _closed(*_A_TO_B))  # fmt: skip


def _echoes(family: int) -> Iterator[Check]:
    asked, answered = echo(A, B, family), echo(B, A, family, True)
    yield Check(f"IPv{family}: an answer to another echo", [_out(asked), _out(echo(B, A, family, True, 8),
                "POLICY_DENIED")], _closed(*_A_TO_B))  # fmt: skip
    yield Check(f"IPv{family}: a question is no answer", [_out(asked), _out(echo(B, A, family), "POLICY_DENIED"),
                _out(answered)], _closed(*_A_TO_B))  # fmt: skip
    zero = echo(A, B, family, number=0), echo(B, A, family, True, 0), echo(B, A, family, number=0)
    yield Check(f"IPv{family}: echoes of id 0", [_out(zero[0]), _out(zero[1]), _out(zero[2], "POLICY_DENIED")],
                _closed(*_A_TO_B))  # fmt: skip
    yield Check(f"IPv{family}: an answer nobody asked for opens nothing", [_out(answered), _out(asked,
                "POLICY_DENIED")], _closed((B, EGRESS, A), (A, INGRESS, B)))  # fmt: skip
    made = _closed()
    kind = 8 if family == 4 else 128
    made.policy[row(A, EGRESS, B.identity, icmp_protocol(family), kind)] = ALLOW
    made.policy[row(B, INGRESS, A.identity, icmp_protocol(family), kind)] = ALLOW
    yield Check(f"IPv{family}: the connection of an echo is the request's", [_out(asked), _out(answered), revise(A),
                _out(answered), revise(B), _out(answered), _out(asked)], made)  # fmt: skip


def _other_ways(family: int) -> Iterator[Check]:
    tunnel = OTHER_NODE.ipv4, REMOTE.identity
    there, back = tcp(A, REMOTE, family, SYN, _PORTS), tcp(REMOTE, A, family, SYN | ACK, _BACK)
    closed = _closed((A, EGRESS, REMOTE))
    yield Check(f"IPv{family}: to another node's pod and back",
                [_out(there), Send("overlay", back, "redirect", tunnel), revise(A),
                 Send("overlay", back, "redirect", tunnel)], closed)  # fmt: skip
    yield Check(f"IPv{family}: an answer in the tunnel to nothing", [Send("overlay", back, "POLICY_DENIED", tunnel)],
                closed)  # fmt: skip
    closed = _closed((A, INGRESS, REMOTE))
    yield Check(f"IPv{family}: from another node's pod and back",
                [Send("overlay", tcp(REMOTE, A, family, SYN, _BACK), "redirect", tunnel),
                 _out(tcp(A, REMOTE, family, SYN | ACK, _PORTS))], closed)  # fmt: skip
    for place, program, passes in ((WORLD, "from_netdev", "redirect"), (NODE, "to_endpoint", "pass")):
        made = _closed()
        outside = 2 if family == 4 else 10
        made.policy[row(A, EGRESS, outside if place is WORLD else 1)] = ALLOW
        yield Check(f"IPv{family}: to {place.identity} and back",
                    [_out(tcp(A, place, family, SYN, _PORTS), "redirect" if place is WORLD else "pass"),
                     Send(program, tcp(place, A, family, SYN | ACK, _BACK), passes),
                     Send(program, tcp(place, A, family, SYN, _BACK), "POLICY_DENIED")], made)  # fmt: skip


def _audited(tables: Tables, family: int, *audited: Place) -> Tables:
    for place in (A, B):
        flags = ENDPOINT_AUDITED if place in audited else 0
        tables.endpoints[place.ip(family)] = Endpoint(places.LO, place.identity, place.endpoint_id, flags)
    return tables


def _audit(family: int) -> Iterator[Check]:
    def end(tables: Tables) -> None:
        _audited(tables, family)

    for name, (there, back) in _both_ways(family).items():
        for audited, allowed in (((A,), _A_TO_B[1:]), ((B,), _A_TO_B[:1]), ((A, B), ())):
            made = _audited(_closed(*allowed), family, *audited)
            who = [place.identity for place in audited]
            yield Check(f"{name} over IPv{family}: {who} are audited", [_out(there), _out(there), _out(back), end,
                        _out(there, "POLICY_DENIED"), _out(back, "POLICY_DENIED")], made)  # fmt: skip
        made = _audited(_closed(), family, A)
        yield Check(f"{name} over IPv{family}: one end is audited, the other refuses", [_out(there, "POLICY_DENIED")],
                    made)  # fmt: skip
        made = _audited(_closed(), family, A, B)
        del made.subjects[B.identity]
        yield Check(f"{name} over IPv{family}: audit mode is no policy", [_out(there, "NO_POLICY")], made)

    def allow(tables: Tables) -> None:
        tables.policy[row(A, EGRESS, B.identity)] = ALLOW
        tables.policy[row(B, INGRESS, A.identity)] = ALLOW

    both = _audited(_closed(), family, A, B)
    yield Check(f"IPv{family}: what was audited comes to be allowed", [_out(tcp(A, B, family)), allow, revise(A),
                revise(B), _out(tcp(A, B, family)), _out(tcp(B, A, family, SYN | ACK, _BACK))], both)  # fmt: skip
