"""A pod's link: who has which address there. A pod speaks there of its own addresses only."""

from kilim.model.address import IPV6, from_mapped, is_ipv6, mapped
from kilim.model.mac import pod_mac
from tests.datapath.model.packet import Packet
from tests.datapath.model.state import Dropped, Node

_SOLICITATION, _ADVERTISEMENT = 135, 136
_ROUTERS_AND_GROUPS = (130, 131, 132, 133, 134, 137, 143)


def pass_arp(node: Node, frame: bytes, ifindex: int) -> None:
    """The sender's protocol address must be that of an endpoint behind this interface, the frame's its own."""
    if len(frame) < 32:
        raise Dropped("INVALID_PACKET", quiet=True)
    endpoint = node.tables.endpoints.get(int.from_bytes(frame[28:32], "big"))
    if endpoint is None or endpoint.ifindex != ifindex:
        raise Dropped("INVALID_SOURCE_IP", quiet=True)
    if frame[6:12] != pod_mac(endpoint.endpoint_id):
        raise Dropped("INVALID_SOURCE_MAC", quiet=True)


def is_chatter(p: Packet) -> bool:
    """From `::` or a link-local address: what a device with IPv6 says before or without an address of ours."""
    if p.family != 6 or p.src is None or not is_ipv6(p.src):
        return False
    return p.src == IPV6 or _is_link_local(p.src)


def _is_link_local(ip: int) -> bool:
    return ip - IPV6 >> 118 == 0xFE80 >> 6


def ends_on_link(node: Node, ip: int) -> bool:
    """A link-local address, a group of the link, or the node's own end of it."""
    bits = mapped(ip)
    return _is_link_local(ip) or (bits[0] == 0xFF and bits[1] & 15 == 2) or node.is_known_by(ip)


def refuse_foreign_link(p: Packet) -> None:
    """What only a pod's own link may say to it does not come from elsewhere."""
    if is_chatter(p):
        raise Dropped("INVALID_SOURCE_IP", quiet=True)
    if is_link_message(p):
        raise Dropped("FORBIDDEN_ICMPV6", quiet=True)


def is_discovery(p: Packet) -> bool:
    return p.is_icmpv6 and p.policy_port in (_SOLICITATION, _ADVERTISEMENT)


def is_link_message(p: Packet) -> bool:
    return is_discovery(p) or (p.is_icmpv6 and p.policy_port in _ROUTERS_AND_GROUPS)


def pass_link_message(node: Node, p: Packet) -> None:
    """Of a pod, whose source address is its own: neighbor discovery, which stays on the link, and advertised may be
    that address alone."""
    assert p.dst is not None
    if not is_discovery(p) or not ends_on_link(node, p.dst):
        raise Dropped("FORBIDDEN_ICMPV6", quiet=True)
    if p.policy_port == _ADVERTISEMENT:
        target = p.frame[p.l4 + 8 : p.l4 + 24]
        if len(target) < 16 or from_mapped(target) != p.src:
            raise Dropped("INVALID_SOURCE_IP", quiet=True)
