"""What does not fit its way. Nobody fragments, neither inside nor outside a tunnel: who sent it is told what fits.

A way has the MTU of its device; and that of the route towards where it leads, less what a tunnel puts in front.
"""

import struct
from collections.abc import Iterator

from kilim.model.address import is_ipv6, mapped
from kilim.model.mac import node_mac, pod_mac
from tests.datapath.model.connections import record
from tests.datapath.model.packet import ICMP, ICMPV6, Packet
from tests.datapath.model.state import DROPPED, REASONS, REDIRECT, Dropped, Endpoint, Node, Outcome, Remote, Way

_LEAST = 1280  # what every way leaves, as IPv6 asks of it
_QUOTED = 256
_HOPS = 64


def room(node: Node, p: Packet, remote: Remote) -> int:
    """What the way leaves, if that is too little for this packet; else 0."""
    length = len(p.frame) - 14
    narrowest = min(_rooms(node, p, remote), default=length)
    return narrowest if length > max(narrowest, _LEAST) else 0


def _rooms(node: Node, p: Packet, remote: Remote) -> Iterator[int]:
    settings, to, header = node.settings, p.dst, 0
    device = settings.underlay_ifindex
    if settings.tunnel_ifindex and remote.tunnel:
        device, to = settings.tunnel_ifindex, remote.tunnel
        header = (40 if is_ipv6(to) else 20) + 8 + 8 + 14
    if device in settings.device_mtus:
        yield settings.device_mtus[device]
    if to in settings.route_mtus:
        yield settings.route_mtus[to] - header


def refuse(node: Node, p: Packet, sender: Endpoint, mtu: int, outcome: Outcome) -> None:
    """The message goes straight into the pod that sent it; no error is answered with another."""
    if p.icmp_error:
        raise Dropped("FRAGMENT")
    outcome.reason = REASONS["FRAGMENT"]
    outcome.counters[outcome.reason, p.direction] += 1
    outcome.records.append(record(p, DROPPED, outcome.reason))
    message = _message_ipv4(node, p, mtu) if p.family == 4 else _message_ipv6(node, p, mtu)
    outcome.frame = pod_mac(sender.endpoint_id) + node_mac(sender.endpoint_id) + p.frame[12:14] + message
    outcome.verdict, outcome.way = REDIRECT, Way("peer", sender.ifindex)


def _message_ipv4(node: Node, p: Packet, mtu: int) -> bytes:
    assert p.src is not None
    body = _summed(struct.pack(">BBHHH", 3, 4, 0, 0, mtu) + p.frame[14 : 14 + _QUOTED], 2)
    ends = node.settings.node_ipv4, p.src
    header = struct.pack(">BBHHHBBHII", 0x45, 0, 20 + len(body), 0, 0x4000, _HOPS, ICMP, 0, *ends)
    return _summed(header, 10) + body


def _message_ipv6(node: Node, p: Packet, mtu: int) -> bytes:
    assert p.src is not None
    body = struct.pack(">BBHI", 2, 0, 0, mtu) + p.frame[14 : 14 + _QUOTED]
    ends = mapped(node.settings.node_ipv6) + mapped(p.src)
    pseudo = ends + struct.pack(">II", len(body), ICMPV6)
    body = _summed(pseudo + body, len(pseudo) + 2)[len(pseudo) :]
    return struct.pack(">IHBB", 6 << 28, len(body), ICMPV6, _HOPS) + ends + body


def _summed(data: bytes, at: int) -> bytes:
    """With its checksum there (RFC 1071)."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return data[:at] + struct.pack(">H", total ^ 0xFFFF) + data[at + 2 :]
