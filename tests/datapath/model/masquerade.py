"""What a pod opens towards the outside leaves with the node's address, and what comes back is the pod's again.

1. Policy and connections know the pod's own address and port alone: this comes after the verdict, and before it on the
   way back.
2. A mapping has a row for each way. The row of a way that is gone is written again by the next packet out.
3. The port follows from the ends, so a mapping of which only the way back is left is found again; by no first packet.
4. A port is another's as long as that one's connection is remembered.
5. ICMP errors about a mapped connection are translated with what they quote, either way.
6. A reply to what was opened from outside leaves as it is, unless there is a mapping, of a forgotten connection.
7. A later fragment gets the address of its first; it has no ports.
"""

import struct

from kilim.model.address import is_ipv6, mapped
from tests.datapath.model.connections import read_quoted
from tests.datapath.model.fragments import remember_first
from tests.datapath.model.packet import REPLY, SCTP, Packet
from tests.datapath.model.rewriting import CHECKSUM_AT, Part, change_address, change_port, mend
from tests.datapath.model.state import EGRESS, INGRESS, Dropped, End, Mapped, MappingKey, Node, Outcome, Remote

_TRIES = 128
_FREE, _OURS, _STALE, _TAKEN = range(4)


def is_masqueraded(node: Node, ip: int, remote: Remote) -> bool:
    """What is neither of the cluster nor exempt."""
    settings = node.settings
    if not settings.masquerade or any(each.contains_ip(ip) for each in settings.masquerade_exempts):
        return False
    return remote.identity in (2, 10) or remote.identity >> 24 == 1


def masquerade(node: Node, p: Packet, outcome: Outcome) -> None:
    if p.state == "reply" and p.echo:
        return
    if p.icmp_error:
        if not _translate_error(node, p, out=True) and p.state != "related":
            raise Dropped("UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE")
    elif not p.tracked:
        raise Dropped("UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE")
    elif p.echo == REPLY:
        raise Dropped("NO_MAPPING_FOR_NAT_MASQUERADE")
    else:
        to = _mapping(node, p)
        if to is not None:
            _rewrite(p, to, EGRESS)
    outcome.frame = p.frame


def unmasquerade(node: Node, p: Packet) -> bool:
    """Of what comes to the node's address: whether it is a pod's. Then it is the packet to the pod."""
    if p.icmp_error:
        return _translate_error(node, p, out=False)
    first, last = node.settings.masquerade_ports
    if not p.tracked or not (p.protocol == SCTP or first <= p.dst_port <= last):
        return False
    to = node.mappings.get((p.protocol, p.sender, p.receiver, INGRESS))
    if to is None or not _is_endpoint(node, to.ip, to.endpoint_id):
        return False
    remember_first(node, p)
    _rewrite(p, to, INGRESS)
    p.dst, p.dst_port = to.ip, to.port
    if not p.echo:
        p.policy_port = to.port
    return True


def _is_endpoint(node: Node, ip: int, endpoint_id: int) -> bool:
    endpoint = node.tables.endpoints.get(ip)
    return endpoint is not None and endpoint.endpoint_id == endpoint_id


def _own_ip(node: Node, p: Packet) -> int:
    return node.settings.node_ipv4 if p.family == 4 else node.settings.node_ipv6


def _mapping(node: Node, p: Packet) -> Mapped | None:
    ip = _own_ip(node, p)
    out: MappingKey = p.protocol, p.sender, p.receiver, EGRESS
    back = Mapped(p.sender.ip, p.sender.port, p.endpoint_id)
    held = node.mappings.get(out)
    if held is not None and (held.ip, held.endpoint_id) == (ip, p.endpoint_id):
        way_back = (p.protocol, p.receiver, End(ip, held.port), INGRESS)
        if node.mappings.setdefault(way_back, back) == back:
            return held
    if p.state == "reply":
        return None
    wanted = ((_OURS,) if p.state != "new" else ()) + (_FREE, _STALE)
    for state in wanted:
        for port in _ports(node, p):
            if _state_of(node, p, End(ip, port), back) == state:
                node.mappings[p.protocol, p.receiver, End(ip, port), INGRESS] = back
                node.mappings[out] = Mapped(ip, port, p.endpoint_id)
                return node.mappings[out]
    raise Dropped("NO_MAPPING_FOR_NAT_MASQUERADE")


def _ports(node: Node, p: Packet) -> list[int]:
    """In the order in which they are tried. SCTP's stays: its checksum is over it."""
    if p.protocol == SCTP:
        return [p.src_port]
    first, last = node.settings.masquerade_ports
    count = last - first + 1
    place = _hash(p)
    if count <= _TRIES:
        return [first + (place + each) % count for each in range(count)]
    return [first + _mixed(place + each * 0x9E3779B1) % count for each in range(_TRIES)]


def _mixed(value: int) -> int:
    value &= 0xFFFFFFFF
    value = (value ^ value >> 15) * 0x85EBCA6B & 0xFFFFFFFF
    return value ^ value >> 13


def _hash(p: Packet) -> int:
    """Any function of the ends would do; so this one thing is as it is in C."""
    assert p.src is not None and p.dst is not None
    ends = mapped(p.src) + mapped(p.dst) + struct.pack(">HHBBxx", p.src_port, p.dst_port, p.protocol, EGRESS)
    value = 0
    for word in struct.unpack("<10I", ends):
        value = (value ^ word) * 0x85EBCA6B & 0xFFFFFFFF
        value ^= value >> 15
    return value


def _state_of(node: Node, p: Packet, end: End, back: Mapped) -> int:
    held = node.mappings.get((p.protocol, p.receiver, end, INGRESS))
    if held is None:
        return _FREE
    if held == back:
        return _OURS
    connection = node.connections.get((p.protocol, frozenset((End(held.ip, held.port), p.receiver))))
    return _TAKEN if connection is not None and connection.expires > node.now else _STALE


def _rewrite(p: Packet, to: Mapped, direction: int) -> None:
    """The packet's own source, or destination, and its port."""
    own = p.sender if direction == EGRESS else p.receiver
    later = p.fragment is not None and p.fragment.later
    part = Part(14, p.l4, 0 if later else p.protocol, direction == EGRESS)
    frame = bytearray(p.frame)
    change_address(frame, part, own.ip, to.ip)
    if not later:
        change_port(frame, part, own.port, to.port)
    p.frame = bytes(frame)


def _translate_error(node: Node, p: Packet, out: bool) -> bool:
    """Out: of a pod about what came to it; in: about what left with the node's address."""
    quoted = read_quoted(p)
    if quoted is None:
        return False
    protocol, sender, receiver, l4 = quoted
    complains_of = receiver if out else sender
    if complains_of.ip != (p.src if out else p.dst):
        return False
    to = node.mappings.get((protocol, receiver, sender, EGRESS if out else INGRESS))
    if to is None:
        return False
    pod = complains_of.ip if out else to.ip
    if not _is_endpoint(node, pod, to.endpoint_id):
        return False
    frame = bytearray(p.frame)
    change_address(frame, Part(14, p.l4, p.protocol, out), complains_of.ip, to.ip)
    _change_quoted(frame, Part(p.l4 + 8, l4, protocol, not out), p.l4 + 2, complains_of, to)
    p.frame = bytes(frame)
    if not out:
        p.dst = to.ip
    return True


def _change_quoted(frame: bytearray, part: Part, icmp_checksum: int, end: End, to: Mapped) -> None:
    """All that changes in there is under the checksum of the error, too."""
    at = part.l4 + CHECKSUM_AT.get(part.protocol, len(frame))
    if at + 2 <= len(frame):
        before = bytes(frame[at : at + 2])
        change_address(frame, part, end.ip, to.ip, only_checksum=True)
        mend(frame, at, struct.pack(">H", end.port), struct.pack(">H", to.port), part.protocol)
        mend(frame, icmp_checksum, before, bytes(frame[at : at + 2]))
    change_address(frame, part, end.ip, to.ip, only_header=True)
    if is_ipv6(end.ip):
        mend(frame, icmp_checksum, mapped(end.ip), mapped(to.ip))
    if end.port != to.port:
        change_port(frame, part, end.port, to.port, checksum=False)
        mend(frame, icmp_checksum, struct.pack(">H", end.port), struct.pack(">H", to.port))
