"""The four programs: who may speak, what policy is asked about, and where a packet goes."""

from collections.abc import Callable

from kilim.model.address import is_ipv6, mapped, without_host_bits
from kilim.model.mac import node_mac, pod_mac
from tests.datapath.model import masquerade, mtu, neighbors
from tests.datapath.model.connections import admit, record
from tests.datapath.model.fragments import check_first, follow_first
from tests.datapath.model.packet import ARP, IP6, IPV4, UDP, Packet, ethertype, read_ip, read_l4
from tests.datapath.model.state import (
    DROP,
    DROPPED,
    EGRESS,
    FORWARDED,
    HEALTH,
    HOST,
    INGRESS,
    PASS,
    REDIRECT,
    REMOTE_NODE,
    WORLD,
    WORLD_IPV6,
    Dropped,
    Endpoint,
    Node,
    Outcome,
    Remote,
    Way,
)

_ENDPOINT_IDENTITIES = {HEALTH, *range(256, 65536)}


def run(node: Node, program: str, frame: bytes, ifindex: int, tunnel: tuple[int, int] | None = None) -> Outcome:
    """`tunnel`: who sent the outer packet, and its VNI; None: it came out of no tunnel."""
    p = Packet(frame, ifindex, EGRESS if program == "from_endpoint" else INGRESS)
    outcome = Outcome(PASS, 0, frame)
    try:
        if program == "overlay":
            _overlay(node, p, outcome, tunnel)
        else:
            _PROGRAMS[program](node, p, outcome)
    except Dropped as dropped:
        outcome.verdict, outcome.reason = DROP, dropped.reason
        outcome.counters[dropped.reason, p.direction] += 1
        if not dropped.quiet:
            outcome.records.append(record(p, DROPPED, dropped.reason))
    return outcome


def find_remote(node: Node, ip: int) -> Remote:
    """The longest prefix of the address's own family; an address without one is world's."""
    covering = [
        (length, remote)
        for (prefix, length), remote in node.tables.ipcache.items()
        if is_ipv6(prefix) == is_ipv6(ip) and without_host_bits(ip, length) == prefix
    ]
    return max(covering)[1] if covering else Remote(WORLD_IPV6 if is_ipv6(ip) else WORLD)


def _is_other_node(identity: int) -> bool:
    return identity == REMOTE_NODE or identity >> 24 == 2


def _is_ip(p: Packet) -> bool:
    return ethertype(p.frame) in (IPV4, IP6)


def _read_ip(p: Packet) -> None:
    read_ip(p)
    check_first(p, p.end)


def _read_l4(node: Node, p: Packet) -> None:
    if p.fragment and p.fragment.later:
        follow_first(node, p)
    else:
        read_l4(p)


def _read(node: Node, p: Packet) -> None:
    """As far as IP goes chatter of the link is told from what was meant for somebody."""
    try:
        _read_ip(p)
    except Dropped as dropped:
        if str(dropped) != "INVALID_PACKET" and neighbors.is_chatter(p):
            raise Dropped("INVALID_SOURCE_IP", quiet=True) from None
        raise
    if neighbors.is_chatter(p):
        raise Dropped("INVALID_SOURCE_IP", quiet=True)
    _read_l4(node, p)


def _from_endpoint(node: Node, p: Packet, outcome: Outcome) -> None:
    if ethertype(p.frame) == ARP:
        neighbors.pass_arp(node, p.frame, p.ifindex)
        return
    if not _is_ip(p):
        raise Dropped("UNSUPPORTED_L3", quiet=True)
    _read(node, p)
    assert p.src is not None and p.dst is not None
    source = node.tables.endpoints.get(p.src)
    if source is None or source.ifindex != p.ifindex:
        raise Dropped("INVALID_SOURCE_IP")
    if p.frame[6:12] != pod_mac(source.endpoint_id):
        raise Dropped("INVALID_SOURCE_MAC")
    if neighbors.is_link_message(p):
        neighbors.pass_link_message(node, p)
        return
    p.src_endpoint, p.src_identity, p.endpoint_id = source, source.identity, source.endpoint_id
    destination = node.tables.endpoints.get(p.dst)
    if destination is None:
        _leave_node(node, p, source, outcome)
        return
    p.dst_endpoint, p.dst_identity = destination, destination.identity
    admit(node, p, outcome)
    _deliver(p, destination, outcome)


def _leave_node(node: Node, p: Packet, source: Endpoint, outcome: Outcome) -> None:
    assert p.dst is not None
    settings = node.settings
    if _is_unroutable(p.dst):
        raise Dropped("UNROUTABLE_IP")
    remote = Remote(HOST) if node.is_own(p.dst) else find_remote(node, p.dst)
    p.dst_identity = remote.identity
    to_a_node = remote.identity == HOST or _is_other_node(remote.identity)
    as_a_node = to_a_node or masquerade.is_masqueraded(node, p.dst, remote)
    if settings.tunnel_port and as_a_node and (p.protocol, p.dst_port) == (UDP, settings.tunnel_port):
        raise Dropped("ENCAPSULATION")
    admit(node, p, outcome)
    too_little = 0 if remote.identity == HOST else mtu.room(node, p, remote)
    if too_little:
        mtu.refuse(node, p, source, too_little, outcome)
        return
    if masquerade.is_masqueraded(node, p.dst, remote):
        masquerade.masquerade(node, p, outcome)
    outcome.counters[FORWARDED, EGRESS] += 1
    if remote.identity == HOST:
        return
    if settings.tunnel_ifindex and remote.tunnel:
        outcome.verdict = REDIRECT
        outcome.way = Way("tunnel", settings.tunnel_ifindex, remote.tunnel, p.src_identity)
    elif settings.underlay_ifindex:
        outcome.verdict, outcome.way = REDIRECT, Way("neighbor", settings.underlay_ifindex)


def _is_unroutable(ip: int) -> bool:
    """Multicast, broadcast, loopback, this link alone, and the unspecified address."""
    if not is_ipv6(ip):
        return ip >> 24 in (0, 127) or ip >> 24 >= 224
    bits = mapped(ip)
    return bits[0] == 0xFF or (bits[0] == 0xFE and bits[1] >> 6 == 2) or not any(bits[:12])


def _to_endpoint(node: Node, p: Packet, outcome: Outcome) -> None:
    p.to_pod = True
    if ethertype(p.frame) == ARP:
        return
    if not _is_ip(p):
        raise Dropped("UNSUPPORTED_L3", quiet=True)
    _read_ip(p)
    _read_l4(node, p)
    if neighbors.is_discovery(p) and p.frame[21] == 255:  # what has come by way of a router has less
        return
    if neighbors.is_chatter(p) or neighbors.is_link_message(p):
        raise Dropped("FORBIDDEN_ICMPV6", quiet=True)
    assert p.src is not None and p.dst is not None
    p.src_identity = _identity_of(node, p.src)
    destination = node.tables.endpoints.get(p.dst)
    if destination is None or destination.ifindex != p.ifindex:
        raise Dropped("NO_LOCAL_ENDPOINT")
    _is_for(p, destination)
    admit(node, p, outcome)
    outcome.counters[FORWARDED, INGRESS] += 1


def _identity_of(node: Node, ip: int) -> int:
    if node.is_own(ip):
        return HOST
    endpoint = node.tables.endpoints.get(ip)
    return endpoint.identity if endpoint else find_remote(node, ip).identity


def _from_netdev(node: Node, p: Packet, outcome: Outcome) -> None:
    """All that is not for an endpoint of this node is left alone, what is unreadable, too."""
    p.to_pod = True
    if not _is_ip(p):
        return
    wrong: Dropped | None = None
    try:
        _read_ip(p)
    except Dropped as dropped:
        wrong = dropped
    to_node = node.settings.masquerade and node.is_known_by(p.dst)
    if to_node and (wrong or not _is_reply(node, p)):
        return
    outcome.frame = p.frame
    destination = node.tables.endpoints.get(p.dst) if p.dst is not None else None
    if destination is None:
        return
    _is_for(p, destination)
    if wrong:
        raise wrong
    if not to_node:
        _read_l4(node, p)
    neighbors.refuse_foreign_link(p)
    assert p.src is not None
    if node.is_own(p.src) or p.src in node.tables.endpoints:
        raise Dropped("INVALID_SOURCE_IP")
    remote = find_remote(node, p.src)
    p.src_identity = remote.identity
    if node.settings.tunnel_ifindex and remote.tunnel:
        raise Dropped("INVALID_SOURCE_IP")
    admit(node, p, outcome)
    _deliver(p, destination, outcome)


def _is_reply(node: Node, p: Packet) -> bool:
    """Whether what comes to the node's address is a pod's, whose packet it becomes."""
    try:
        _read_l4(node, p)
    except Dropped:
        return False
    return masquerade.unmasquerade(node, p)


def _overlay(node: Node, p: Packet, outcome: Outcome, tunnel: tuple[int, int] | None) -> None:
    p.to_pod = True
    if not _is_ip(p):
        raise Dropped("UNSUPPORTED_L3", quiet=True)
    _read(node, p)
    assert p.src is not None and p.dst is not None
    if tunnel is None:
        raise Dropped("NO_TUNNEL_KEY")
    outer, vni = tunnel
    if vni not in _ENDPOINT_IDENTITIES:
        raise Dropped("INVALID_VNI")
    neighbors.refuse_foreign_link(p)
    if not _is_vouched_for(node, p.src, outer):
        raise Dropped("INVALID_SOURCE_IP")
    p.src_identity = vni
    destination = node.tables.endpoints.get(p.dst)
    if destination is None:
        raise Dropped("NO_LOCAL_ENDPOINT")
    _is_for(p, destination)
    admit(node, p, outcome)
    _deliver(p, destination, outcome)


def _is_vouched_for(node: Node, source: int, outer: int) -> bool:
    """An address with a tunnel is spoken for by the node at its other end; one that nobody knows by any other node;
    nodes, this one's endpoints and reserved identities by nobody."""
    remote = find_remote(node, source)
    if remote.tunnel:
        return remote.tunnel == outer
    is_known = remote.identity not in (WORLD, WORLD_IPV6) and remote.identity < 65536
    if is_known or _is_other_node(remote.identity) or node.is_own(source) or source in node.tables.endpoints:
        return False
    return _is_other_node(find_remote(node, outer).identity)


def _is_for(p: Packet, destination: Endpoint) -> None:
    p.dst_endpoint, p.dst_identity = destination, destination.identity
    p.endpoint_id = destination.endpoint_id


def _deliver(p: Packet, endpoint: Endpoint, outcome: Outcome) -> None:
    """Straight into the pod, with the MAC addresses of its link; counted for each end that is of this node."""
    if p.src_endpoint is not None:
        outcome.counters[FORWARDED, EGRESS] += 1
    outcome.counters[FORWARDED, INGRESS] += 1
    outcome.frame = pod_mac(endpoint.endpoint_id) + node_mac(endpoint.endpoint_id) + p.frame[12:]
    outcome.verdict, outcome.way = REDIRECT, Way("peer", endpoint.ifindex)


_PROGRAMS: dict[str, Callable[[Node, Packet, Outcome], None]] = {
    "from_endpoint": _from_endpoint,
    "to_endpoint": _to_endpoint,
    "from_netdev": _from_netdev,
}
