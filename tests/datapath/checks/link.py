"""What a pod's link carries besides packets for others: ARP, neighbor discovery, tags, other ethertypes."""

from collections.abc import Iterator

from kilim.model.address import IPV6, parse_ip
from kilim.model.mac import node_mac
from tests.datapath import packets
from tests.datapath.check import Check, Send
from tests.datapath.places import FAMILIES, NODE, OTHER_NODE, REMOTE, STRANGER, WORLD, A, B, Place, changed, framed, tcp

_GATEWAY = parse_ip("169.254.1.1")
_LINK_LOCAL = parse_ip("fe80::2")
_GATEWAY_IPV6 = parse_ip("fe80::1")
_VOUCHED = (OTHER_NODE.ipv4, REMOTE.identity)


def _one(name: str, frame: bytes, expected: str, program: str = "from_endpoint") -> Check:
    return Check(name, [Send(program, frame, expected, _VOUCHED if program == "overlay" else None)])


def checks() -> Iterator[Check]:
    yield from _arp()
    yield from _discovery()
    yield from _from_elsewhere()
    yield from _routers_and_groups()
    yield from _link_local()
    yield from _ethertypes()


def _arp_frame(sender: int, operation: int = 1, cut: int = 60) -> bytes:
    body = packets.arp(operation, A.mac, sender, _GATEWAY)
    return packets.ethernet(b"\xff" * 6, A.mac, packets.ETH_ARP, body)[:cut]


def _arp() -> Iterator[Check]:
    for operation, name in ((1, "request"), (2, "reply"), (3, "reverse request")):
        yield _one(f"ARP {name} of an own address", _arp_frame(A.ipv4, operation), "pass")
        yield _one(f"ARP {name} of an own address from another's MAC address",
                   changed(_arp_frame(A.ipv4, operation), 6, B.mac), "INVALID_SOURCE_MAC")  # fmt: skip
        for place in (STRANGER, NODE, REMOTE, WORLD):
            frame = _arp_frame(place.ipv4, operation)
            yield _one(f"ARP {name} of {place.ipv4:x}, somebody else's", frame, "INVALID_SOURCE_IP")
        yield _one(f"ARP {name} from no address, a probe", _arp_frame(0, operation), "INVALID_SOURCE_IP")
    for cut in (20, 28, 31):
        yield _one(f"ARP cut to {cut} bytes", _arp_frame(A.ipv4, 1, cut), "INVALID_PACKET")
    yield _one("ARP cut after the sender's address", _arp_frame(A.ipv4, 1, 32), "pass")
    yield _one("ARP of the host to a pod", _arp_frame(_GATEWAY), "pass", "to_endpoint")
    yield _one("ARP on the wire", _arp_frame(WORLD.ipv4), "pass", "from_netdev")
    yield _one("ARP in the tunnel", _arp_frame(REMOTE.ipv4), "UNSUPPORTED_L3", "overlay")


def _icmpv6(source: int, destination: int, payload: bytes, sender: Place = A, **header: object) -> bytes:
    payload = packets.with_checksum(source, destination, packets.ICMPV6, payload)
    layer = packets.ipv6(source, destination, packets.ICMPV6, payload, hop_limit=255, **header)  # type: ignore[arg-type]
    return framed(sender, 6, layer)


def _discovery() -> Iterator[Check]:
    own = packets.neighbor(136, A.ipv6, A.mac)
    for destination, where in ((_GATEWAY_IPV6, "to the gateway"), (parse_ip("ff02::1"), "to all")):
        yield _one(f"advertisement of an own address {where}", _icmpv6(A.ipv6, destination, own), "pass")
        for target, name in ((B.ipv6, "a neighbor's"), (_GATEWAY_IPV6, "the gateway's"), (NODE.ipv6, "the node's")):
            payload = packets.neighbor(136, target, A.mac)
            yield _one(f"advertisement of {name} address {where}", _icmpv6(A.ipv6, destination, payload),
                       "INVALID_SOURCE_IP")  # fmt: skip
    for target in (_GATEWAY_IPV6, B.ipv6, STRANGER.ipv6):
        payload = packets.neighbor(135, target, A.mac)
        yield _one(f"solicitation for {target:x}", _icmpv6(A.ipv6, _GATEWAY_IPV6, payload), "pass")
    for place, expected in ((NODE, "pass"), (B, "FORBIDDEN_ICMPV6"), (REMOTE, "FORBIDDEN_ICMPV6"),
                            (OTHER_NODE, "FORBIDDEN_ICMPV6"), (WORLD, "FORBIDDEN_ICMPV6")):  # fmt: skip
        for kind in (135, 136):
            payload = packets.neighbor(kind, A.ipv6, A.mac)
            yield _one(f"neighbor message {kind} to {place.ipv6:x}, not beyond the link",
                       _icmpv6(A.ipv6, place.ipv6, payload), expected)  # fmt: skip
    for text in ("ff05::1:3", "ff0e::1", "ff12::5"):
        yield _one(f"advertisement to {text}", _icmpv6(A.ipv6, parse_ip(text), own),
                   "pass" if text == "ff12::5" else "FORBIDDEN_ICMPV6")  # fmt: skip
    solicitation = packets.neighbor(135, _GATEWAY_IPV6, A.mac)
    for source, name in ((STRANGER.ipv6, "a stranger's"), (_LINK_LOCAL, "a link-local"), (IPV6, "no")):
        yield _one(
            f"solicitation from {name} address", _icmpv6(source, _GATEWAY_IPV6, solicitation), "INVALID_SOURCE_IP"
        )
    yield _one("advertisement cut within the target", _icmpv6(A.ipv6, _GATEWAY_IPV6, own)[:70], "INVALID_SOURCE_IP")
    yield _one("advertisement behind options",
               _icmpv6(A.ipv6, _GATEWAY_IPV6, packets.neighbor(136, B.ipv6, A.mac), extensions=[(60, b"")]),
               "INVALID_SOURCE_IP")  # fmt: skip
    for kind in (135, 136):
        payload = packets.neighbor(kind, A.ipv6, node_mac(A.endpoint_id))
        yield _one(f"the host's neighbor message {kind} to a pod", _icmpv6(_GATEWAY_IPV6, A.ipv6, payload), "pass",
                   "to_endpoint")  # fmt: skip
        forwarded = changed(_icmpv6(WORLD.ipv6, A.ipv6, payload), 21, bytes([254]))
        yield _one(f"neighbor message {kind} to a pod from beyond a router", forwarded, "FORBIDDEN_ICMPV6",
                   "to_endpoint")  # fmt: skip
        yield _one(f"neighbor message {kind} over IPv4 is no ICMP",
                   framed(A, 4, packets.ipv4(A.ipv4, B.ipv4, packets.ICMPV6, payload)), "CT_UNKNOWN_L4")  # fmt: skip


def _from_elsewhere() -> Iterator[Check]:
    """What a pod takes from its own link alone, and believes, comes neither from the wire nor through the tunnel."""
    for program, sender in (("from_netdev", WORLD), ("overlay", REMOTE)):
        for kind in (130, 131, 132, 133, 134, 135, 136, 137, 143):
            payload = packets.icmp(kind, rest=bytes(20))
            yield _one(f"{program}: ICMPv6 {kind} to a pod", _icmpv6(sender.ipv6, A.ipv6, payload), "FORBIDDEN_ICMPV6",
                       program)  # fmt: skip
            for source in (_GATEWAY_IPV6, IPV6):
                yield _one(f"{program}: ICMPv6 {kind} to a pod from {source:x}", _icmpv6(source, A.ipv6, payload),
                           "INVALID_SOURCE_IP", program)  # fmt: skip
        for kind in (129, 138, 142, 144):
            frame = _icmpv6(sender.ipv6, A.ipv6, packets.icmp(kind, rest=bytes(20)))
            yield _one(f"{program}: ICMPv6 {kind} to a pod is as any other", frame, "redirect", program)


def _routers_and_groups() -> Iterator[Check]:
    for kind in (130, 131, 132, 133, 134, 137, 143):
        payload = packets.icmp(kind, rest=bytes(16))
        yield _one(f"ICMPv6 {kind} of a pod", _icmpv6(A.ipv6, parse_ip("ff02::2"), payload), "FORBIDDEN_ICMPV6")
        yield _one(f"ICMPv6 {kind} of a pod to another", _icmpv6(A.ipv6, B.ipv6, payload), "FORBIDDEN_ICMPV6")
        yield _one(f"ICMPv6 {kind} to a pod", _icmpv6(NODE.ipv6, B.ipv6, payload), "FORBIDDEN_ICMPV6", "to_endpoint")
        yield _one(f"ICMPv6 {kind} of a pod by a link-local address",
                   _icmpv6(_LINK_LOCAL, parse_ip("ff02::2"), payload), "INVALID_SOURCE_IP")  # fmt: skip


def _link_local() -> Iterator[Check]:
    for text in ("fe80::2", "febf::1", "::"):
        source = parse_ip(text)
        for protocol, payload in ((packets.UDP, packets.udp(546, 547)), (packets.TCP, packets.tcp(1, 2))):
            layer = packets.ipv6(source, B.ipv6, protocol, payload)
            frame = framed(A, 6, layer)
            yield _one(f"protocol {protocol} of a pod from {text}", frame, "INVALID_SOURCE_IP")
            yield _one(f"protocol {protocol} in the tunnel from {text}", frame, "INVALID_SOURCE_IP", "overlay")
            yield _one(f"protocol {protocol} to a pod from {text}", frame, "FORBIDDEN_ICMPV6", "to_endpoint")
    layer = packets.ipv6(parse_ip("fec0::2"), B.ipv6, packets.TCP, packets.tcp(1, 2))
    yield _one("a site-local address is as any other", framed(A, 6, layer), "INVALID_SOURCE_IP")


def _ethertypes() -> Iterator[Check]:
    wanted = {"from_endpoint": "UNSUPPORTED_L3", "to_endpoint": "UNSUPPORTED_L3", "overlay": "UNSUPPORTED_L3",
              "from_netdev": "pass"}  # fmt: skip
    for program, expected in wanted.items():
        for ethertype in (
            0x0000,
            0x05DC,
            0x0600,
            0x0842,
            0x6558,
            0x8035,
            0x8847,
            0x8863,
            0x888E,
            0x88CC,
            0x88F7,
            0xFFFF,
        ):
            frame = packets.ethernet(B.mac, A.mac, ethertype, tcp(A, B, 4)[14:])
            yield _one(f"{program}: ethertype {ethertype:04x}", frame, expected, program)
        for family in FAMILIES:
            tags = [(packets.ETH_VLAN, 7)], [(packets.ETH_QINQ, 7), (packets.ETH_VLAN, 8)], [(packets.ETH_VLAN, 0)]
            for tag in tags:
                frame = packets.tagged(tcp(A, B, family), *tag)
                yield _one(f"{program}: IPv{family} with tags {tag} in the frame", frame, expected, program)
