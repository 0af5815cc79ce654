"""Where what may pass goes."""

from collections.abc import Iterator

from kilim.model.address import parse_ip
from tests.datapath import places
from tests.datapath.check import Check, Send
from tests.datapath.model.state import Remote
from tests.datapath.places import (
    ALLOW,
    CIDR,
    EGRESS,
    FAMILIES,
    NODE,
    OTHER_NODE,
    REMOTE,
    REMOTE_BY_IPV6,
    STRANGER,
    THIRD_NODE,
    TUNNEL_PORT,
    WORLD,
    A,
    B,
    Place,
    row,
    tcp,
    udp,
)

_NOWHERE = {
    4: ("0.0.0.0", "0.255.255.255", "127.0.0.1", "127.255.255.255", "224.0.0.1", "239.255.255.255", "240.0.0.1",
        "255.255.255.255"),
    6: ("::", "::1", "::7f00:1", "::ffff:ffff", "ff00::", "ff02::1", "ff0e::101", "ffff::", "fe80::", "fe80::1",
        "febf:ffff::1"),
}  # fmt: skip
_SOMEWHERE = {
    4: ("1.0.0.0", "126.255.255.255", "128.0.0.1", "223.255.255.255", "169.254.9.9"),
    6: ("::1:0:0", "2000::", "fe7f:ffff::1", "fec0::1", "fdff::1", "64:ff9b::1", "feff::1"),
}


def _at(text: str) -> Place:
    ip = parse_ip(text)
    return Place(ip, ip, 2)


def checks() -> Iterator[Check]:
    for family in FAMILIES:
        for text in _NOWHERE[family]:
            yield Check(f"a pod sends to {text}", [Send("from_endpoint", tcp(A, _at(text), family), "UNROUTABLE_IP")])
        for text in _SOMEWHERE[family]:
            yield Check(f"a pod sends to {text}", [Send("from_endpoint", tcp(A, _at(text), family), "redirect")])
        for place, expected in (
            (A, "redirect"),
            (B, "redirect"),
            (NODE, "pass"),
            (OTHER_NODE, "redirect"),
            (THIRD_NODE, "redirect"),
            (REMOTE, "redirect"),
            (REMOTE_BY_IPV6, "redirect"),
            (WORLD, "redirect"),
            (CIDR, "redirect"),
            (STRANGER, "redirect"),
        ):
            yield Check(f"a pod sends over IPv{family} to {place.identity}",
                        [Send("from_endpoint", tcp(A, place, family), expected)])  # fmt: skip
        yield from _tunnel_port(family)
        yield from _prefixes(family)


def _tunnel_port(family: int) -> Iterator[Check]:
    forged, near = (40000, TUNNEL_PORT), (TUNNEL_PORT, TUNNEL_PORT + 1)
    for node in (NODE, OTHER_NODE, THIRD_NODE):
        yield Check(f"a pod sends to the tunnel of node {node.identity} over IPv{family}",
                    [Send("from_endpoint", udp(A, node, family, forged), "ENCAPSULATION")])  # fmt: skip
        passes = "pass" if node is NODE else "redirect"
        yield Check(f"a pod sends to other ports of node {node.identity} over IPv{family}",
                    [Send("from_endpoint", udp(A, node, family, near), passes),
                     Send("from_endpoint", tcp(A, node, family, ports=forged), passes)])  # fmt: skip
    for place in (B, REMOTE, WORLD, CIDR):
        yield Check(f"a pod sends to the tunnel's port of {place.identity} over IPv{family}, no node",
                    [Send("from_endpoint", udp(A, place, family, forged), "redirect")])  # fmt: skip


def _prefixes(family: int) -> Iterator[Check]:
    """Only the identity of the longest prefix of an address's own family counts."""
    names = ("0.0.0.0", "198.51.0.0", "198.51.100.0") if family == 4 else ("::", "2001:db8::", "2001:db8::")
    lengths = (0, 16, 24) if family == 4 else (0, 32, 64)
    for allowed in range(3):
        made = places.tables()
        for number, (text, length) in enumerate(zip(names, lengths, strict=True)):
            made.ipcache[parse_ip(text), length] = Remote((1 << 24) + 10 + number)
        places.enforce(made, A, 2)
        made.policy[row(A, EGRESS, (1 << 24) + 10 + allowed)] = ALLOW
        yield Check(f"of IPv{family} prefixes {lengths} the longest counts, {lengths[allowed]} is allowed",
                    [Send("from_endpoint", tcp(A, WORLD, family), "redirect" if allowed == 2 else "POLICY_DENIED")],
                    made)  # fmt: skip
    for text, length in (("::", 0), ("::", 1), ("::", 64), ("::", 80)):
        made = places.tables()
        made.ipcache[parse_ip(text), length] = Remote((1 << 24) + 10)
        places.enforce(made, A, 2)
        made.policy[row(A, EGRESS, (1 << 24) + 10)] = ALLOW
        inside = length <= 1 and family == 6
        yield Check(f"{text}/{length} {'has' if inside else 'has not'} the address {WORLD.ip(family):x}",
                    [Send("from_endpoint", tcp(A, WORLD, family), "redirect" if inside else "POLICY_DENIED")],
                    made)  # fmt: skip
