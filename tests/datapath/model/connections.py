"""Whether a packet may pass. Policy speaks of connections, so a packet is first turned into the one it belongs to.

1. An ICMP error about a live connection passes if the ends here still consent to that; others are judged as ICMP.
2. Who opened the connection says its entry, unless expired or reopened; without one, the sender of this packet.
3. An entry with the consent of each side, given on what is true now, lets it pass.
4. Otherwise each side is judged, in the direction in which the connection was opened; the first that refuses decides.
5. What an audited side refuses passes without its consent; each connection's first such packet is recorded.
6. The entry is written with all consents. A refusal leaves it as it was.
7. A TCP packet without SYN and without entry that policy does not let pass as its sender's is judged as one of a
   connection that the other end opened; what that allows only by audit mode does not count. It makes no entry.
"""

import struct
from dataclasses import dataclass, replace

from kilim.model.address import IPV6, from_mapped
from tests.datapath.model import policy
from tests.datapath.model.fragments import remember_first
from tests.datapath.model.packet import ICMP, ICMPV6, REPLY, REQUEST, TCP, Packet, echo_request, skip_extensions
from tests.datapath.model.state import (
    AUDIT,
    AUDITED,
    CONNECTION,
    EGRESS,
    INGRESS,
    SUBJECT_UNKNOWN,
    Connection,
    ConnectionKey,
    Consent,
    Dropped,
    End,
    Node,
    Outcome,
    Record,
    Subject,
)

_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_DIRECTIONS = (EGRESS, INGRESS)


@dataclass
class _Side:
    """One end of the connection that is of this node."""

    identity: int
    peer: int
    subject: Subject
    audited: bool

    @property
    def consent(self) -> Consent:
        return Consent(self.identity, self.peer, self.subject.revision)


def record(p: Packet, kind: int, reason: int = 0, dst_port: int | None = None) -> Record:
    src_local, dst_local = p.src_endpoint is not None, p.dst_endpoint is not None or p.to_pod
    return Record(
        *(_told(p.src), _told(p.dst), p.src_port, p.policy_port if dst_port is None else dst_port),
        *(p.protocol, p.tcp_flags, kind, p.direction, p.src_identity, p.dst_identity),
        *(len(p.frame), p.ifindex, reason, p.endpoint_id, src_local | dst_local << 1),
    )


def _told(ip: int | None) -> int:
    """Records know no unspecified address from none."""
    return 0 if ip is None or ip == IPV6 else ip


def _turned_round(record: Record) -> Record:
    return record._replace(
        src_ip=record.dst_ip,
        dst_ip=record.src_ip,
        src_identity=record.dst_identity,
        dst_identity=record.src_identity,
        flags=record.flags >> 1 | (record.flags & 1) << 1,
    )


def admit(node: Node, p: Packet, outcome: Outcome) -> None:
    """Raises Dropped; then the packet's direction is that of the side that refused."""
    if p.icmp_error and _is_related(node, p):
        p.state = "related"
        return
    _decide(node, p, outcome)
    remember_first(node, p)


def _decide(node: Node, p: Packet, outcome: Outcome) -> None:
    key = p.protocol, frozenset((p.sender, p.receiver))
    held = node.connections.get(key) if p.tracked else None
    if held is not None and (held.expires <= node.now or _reopens(held, p)):
        held = None
    reply = held is not None and held.initiator != p.sender
    p.state = "new" if held is None else "reply" if reply else "established"
    sides = _sides(node, p, reply)
    if held is not None and all(held.consents.get(direction) == side.consent for direction, side in sides.items()):
        _touch(node, held, p, reply)
        return
    if held is None and _is_forgotten(node, p):
        p.state = "reply"
        return
    port = _policy_port(p, held is None, reply)
    refusals = _judge(node, p, sides, port)
    _note_audits(replace(p), refusals, held, outcome)
    if p.tracked and not (held is None and p.echo == REPLY):  # a reply nobody asked for opens nothing
        _remember(node, p, key, held, sides, refusals, port, outcome)


def _is_forgotten(node: Node, p: Packet) -> bool:
    """Rule 7."""
    if not p.tracked or p.protocol != TCP or p.tcp_flags & _SYN:
        return False
    own, others = (_passes(node, replace(p), reply) for reply in (False, True))
    return others and not own


def _passes(node: Node, p: Packet, reply: bool) -> bool:
    try:
        return not _judge(node, p, _sides(node, p, reply), _policy_port(p, True, reply))
    except Dropped:
        return False


def _reopens(held: Connection, p: Packet) -> bool:
    """What opens another connection with the same ends: a SYN when this one is closing, a SYN or an echo request from
    the end that did not open it."""
    from_other_end = held.initiator != p.sender
    if p.echo:
        return p.echo == REQUEST and from_other_end
    is_syn = p.protocol == TCP and p.tcp_flags & (_SYN | _ACK) == _SYN
    return is_syn and (from_other_end or _is_closing(held))


def _is_closing(held: Connection) -> bool:
    one, other = held.flags
    return bool((one | other) & _RST or one & other & _FIN)


def _sides(node: Node, p: Packet, reply: bool) -> dict[int, _Side]:
    """The egress side is that of the end that opened it, the ingress side the other's; each only if of this node."""
    opener, other = (p.src_identity, p.src_endpoint), (p.dst_identity, p.dst_endpoint)
    if reply:
        opener, other = other, opener
    sides = {}
    for direction, (identity, endpoint), (peer, _) in ((EGRESS, opener, other), (INGRESS, other, opener)):
        if endpoint is None:
            continue
        subject = node.tables.subjects.get(identity)
        if subject is None or subject.flags & SUBJECT_UNKNOWN:
            p.direction = direction
            raise Dropped("NO_POLICY")
        sides[direction] = _Side(identity, peer, subject, endpoint.audited)
    return sides


def _policy_port(p: Packet, fresh: bool, reply: bool) -> int:
    """What policy calls the port of the connection: the responder's port, the type of an ICMP packet; an echo's
    connection is the request's."""
    if p.echo:
        return p.policy_port if fresh else echo_request(p.family)
    return p.src_port if reply else p.policy_port


def _judge(node: Node, p: Packet, sides: dict[int, _Side], port: int) -> dict[int, str]:
    """What audited sides refuse, by direction."""
    refusals = {}
    for direction, side in sides.items():
        reason = policy.judge(node.tables, side.identity, side.subject, side.peer, direction, p.protocol, port)
        if reason and not side.audited:
            p.direction = direction
            raise Dropped(reason)
        if reason:
            refusals[direction] = reason
    return refusals


def _note_audits(p: Packet, refusals: dict[int, str], held: Connection | None, outcome: Outcome) -> None:
    for direction, reason in refusals.items():
        outcome.counters[AUDITED, direction] += 1
        if held is None or direction not in held.audited:
            p.direction = direction
            outcome.records.append(record(p, AUDIT, Dropped(reason).reason))


def _remember(
    node: Node,
    p: Packet,
    key: ConnectionKey,
    held: Connection | None,
    sides: dict[int, _Side],
    refusals: dict[int, str],
    port: int,
    outcome: Outcome,
) -> None:
    opens = held is None or bool(held.audited)
    reply = held is not None and held.initiator != p.sender
    if held is None:
        entry = Connection(p.sender)
    else:
        entry = replace(held, flags=list(held.flags), consents=dict(held.consents))
    for direction, side in sides.items():
        entry.consents[direction] = side.consent
        if direction in refusals:
            del entry.consents[direction]
    entry.audited = frozenset(refusals)
    _touch(node, entry, p, reply)
    node.connections[key] = entry
    if opens and node.settings.record_connections and not refusals:
        told = record(p, CONNECTION, dst_port=port)
        outcome.records.append(_turned_round(told)._replace(src_port=p.dst_port) if reply else told)


def _touch(node: Node, entry: Connection, p: Packet, reply: bool) -> None:
    if p.protocol == TCP:
        entry.flags[reply] |= p.tcp_flags & (_FIN | _SYN | _RST | _ACK)
    entry.expires = node.now + _life(node, entry, p.protocol)


def _life(node: Node, entry: Connection, protocol: int) -> int:
    if protocol != TCP:
        return node.settings.life_other
    if _is_closing(entry):
        return node.settings.life_closing
    both = entry.flags[0] & entry.flags[1]
    return node.settings.life_tcp if both & _ACK else node.settings.life_syn


def _is_related(node: Node, p: Packet) -> bool:
    """The quoted packet must be one that the receiver of the error has sent; an endpoint of this node can only complain
    of what was sent to itself; and each end of this node must have consented to the connection, on its present policy.
    """
    quoted = read_quoted(p)
    if quoted is None:
        return False
    protocol, sender, receiver, _ = quoted
    if sender.ip != p.dst or (p.src_endpoint is not None and receiver.ip != p.src):
        return False
    held = node.connections.get((protocol, frozenset((sender, receiver))))
    if held is None or held.expires <= node.now:
        return False
    asked = EGRESS if sender == held.initiator else INGRESS  # as which the receiver of the error has been judged
    if p.dst_endpoint is not None and not _consented(node, held, p.dst_identity, asked):
        return False
    return p.src_endpoint is None or _consented(node, held, p.src_identity, INGRESS if asked == EGRESS else EGRESS)


def _consented(node: Node, held: Connection, identity: int, direction: int) -> bool:
    subject, consent = node.tables.subjects.get(identity), held.consents.get(direction)
    if subject is None or consent is None:
        return False
    return (consent.subject, consent.revision) == (identity, subject.revision)


def read_quoted(p: Packet) -> tuple[int, End, End, int] | None:
    """Of the packet that an ICMP error is about: protocol, sender, receiver, and where the layer above begins. A later
    fragment has no ports."""
    frame, at = p.frame, p.l4 + 8
    if p.family == 4:
        if len(frame) < at + 20:
            return None
        protocol = frame[at + 9]
        src, dst = struct.unpack_from(">II", frame, at + 12)
        if int.from_bytes(frame[at + 6 : at + 8], "big") & 0x1FFF:
            return None
        at += (frame[at] & 15) * 4
    else:
        if len(frame) < at + 40:
            return None
        src, dst = from_mapped(frame[at + 8 : at + 24]), from_mapped(frame[at + 24 : at + 40])
        protocol, at, wrong, fragment = skip_extensions(frame, frame[at + 6], at + 40)
        if wrong or (fragment and fragment.later):
            return None
    if len(frame) < at + 8:
        return None
    src_port, dst_port = struct.unpack_from(">HH", frame, at)
    if protocol == (ICMP if p.family == 4 else ICMPV6):
        number = int.from_bytes(frame[at + 4 : at + 6], "big")
        src_port, dst_port = (number, 0) if frame[at] == echo_request(p.family) else (0, number)
    return protocol, End(src, src_port), End(dst, dst_port), at
