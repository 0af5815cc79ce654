"""Fragments. A later one has what the first one said of their packet, and is judged by that itself.

1. A first fragment that may pass is remembered, by addresses and id; so is not one that was refused.
2. A first one must hold the header that is read, by the length that IP says of it; a later one may not begin in there.
3. A later one whose first is not known drops.
"""

from tests.datapath.model.packet import ICMP, ICMPV6, TCP, Packet
from tests.datapath.model.state import Dropped, FirstFragment, FragmentKey, Node

_LIFE = 60  # ticks


def check_first(p: Packet, end: int) -> None:
    """`end`: of the packet in the frame, by its header."""
    if p.fragment and not p.fragment.later and p.l4 + (20 if p.protocol == TCP else 8) > end:
        raise Dropped("FRAGMENT")


def remember_first(node: Node, p: Packet) -> None:
    """Once, by its ends as they came in."""
    if p.fragment and not p.fragment.later and not p.remembered:
        p.remembered = True
        ports = p.src_port, p.dst_port, p.policy_port
        node.fragments[_key(p)] = FirstFragment(node.now + _LIFE, *ports, p.protocol, p.echo)


def follow_first(node: Node, p: Packet) -> None:
    first = node.fragments.get(_key(p))
    if first is None or first.expires <= node.now:
        raise Dropped("NO_FIRST_FRAGMENT")
    _, p.src_port, p.dst_port, p.policy_port, p.protocol, p.echo = first
    p.tracked = bool(p.echo) or p.protocol != (ICMP if p.family == 4 else ICMPV6)


def _key(p: Packet) -> FragmentKey:
    assert p.src is not None and p.dst is not None and p.fragment is not None
    return p.src, p.dst, p.fragment.number, p.protocol if p.family == 4 else 0
