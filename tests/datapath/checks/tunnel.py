"""Who may speak through the tunnel, and for whom."""

from collections.abc import Iterator

from kilim.model.address import parse_ip
from tests.datapath import places
from tests.datapath.check import Check, Send
from tests.datapath.model.state import Remote
from tests.datapath.places import (
    CIDR,
    FAMILIES,
    NEWCOMER,
    NODE,
    OTHER_NODE,
    REMOTE,
    REMOTE_BY_IPV6,
    STRANGER,
    THIRD_NODE,
    WORLD,
    A,
    B,
    Place,
    tcp,
)

_BY_IPV4 = OTHER_NODE.ipv4, REMOTE.identity
_BY_IPV6 = THIRD_NODE.ipv6, REMOTE_BY_IPV6.identity


def _one(name: str, source: Place, family: int, tunnel: tuple[int, int] | None, expected: str) -> Check:
    return Check(name, [Send("overlay", tcp(source, B, family), expected, tunnel)])


def checks() -> Iterator[Check]:
    for family in FAMILIES:
        yield from _outer(family)
        yield from _inner(family)
        yield from _vni(family)
        yield from _destinations(family)


def _outer(family: int) -> Iterator[Check]:
    yield _one(f"IPv{family} out of no tunnel", REMOTE, family, None, "NO_TUNNEL_KEY")
    for name, place, right in (("IPv4", REMOTE, OTHER_NODE.ipv4), ("IPv6", REMOTE_BY_IPV6, THIRD_NODE.ipv6)):
        for node in (NODE, OTHER_NODE, THIRD_NODE, WORLD, A, CIDR, STRANGER):
            for outer in (node.ipv4, node.ipv6):
                expected = "redirect" if outer == right else "INVALID_SOURCE_IP"
                yield _one(f"IPv{family} of a pod with an {name} tunnel, from {outer:x}", place, family,
                           (outer, place.identity), expected)  # fmt: skip


def _inner(family: int) -> Iterator[Check]:
    for outer, node in ((OTHER_NODE.ipv4, 2), (OTHER_NODE.ipv6, 2), (THIRD_NODE.ipv4, 3), (THIRD_NODE.ipv6, 3)):
        for place, expected in (
            (NEWCOMER, "redirect"),
            (WORLD, "redirect"),
            (CIDR, "redirect"),
            (NODE, "INVALID_SOURCE_IP"),
            (OTHER_NODE, "INVALID_SOURCE_IP"),
            (THIRD_NODE, "INVALID_SOURCE_IP"),
            (A, "INVALID_SOURCE_IP"),
            (B, "INVALID_SOURCE_IP"),
        ):
            yield _one(f"IPv{family}: node {node} at {outer:x} speaks for {place.identity}", place, family,
                       (outer, NEWCOMER.identity), expected)  # fmt: skip
    for outer in (WORLD.ipv4, WORLD.ipv6, CIDR.ipv4, NODE.ipv4, NODE.ipv6, A.ipv4, REMOTE.ipv4, parse_ip("::1")):
        yield _one(f"IPv{family}: {outer:x}, no other node, speaks for one nobody knows", NEWCOMER, family,
                   (outer, NEWCOMER.identity), "INVALID_SOURCE_IP")  # fmt: skip
    for identity in (0, 1, 4, 5, 6, 7, 8, 9, 255, 256, 65535, (2 << 24) + 1):
        made = places.tables()
        length = 32 if family == 4 else 128
        made.ipcache[STRANGER.ip(family), length] = Remote(identity)
        yield Check(f"IPv{family}: a node speaks for an address of identity {identity}",
                    [Send("overlay", tcp(STRANGER, B, family), "INVALID_SOURCE_IP", _BY_IPV4)], made)  # fmt: skip


def _vni(family: int) -> Iterator[Check]:
    for vni in (0, 1, 2, 3, 5, 6, 10, 255, 65536, 1 << 20, (1 << 24) - 1):
        yield _one(f"IPv{family} with VNI {vni}", REMOTE, family, (OTHER_NODE.ipv4, vni), "INVALID_VNI")
        yield _one(f"IPv{family} with VNI {vni} from an IPv6 address", REMOTE_BY_IPV6, family, (THIRD_NODE.ipv6, vni),
                   "INVALID_VNI")  # fmt: skip
    for vni in (4, 256, 1003, 65535):
        yield _one(f"IPv{family} with VNI {vni}", REMOTE, family, (OTHER_NODE.ipv4, vni), "redirect")


def _destinations(family: int) -> Iterator[Check]:
    for place in (NODE, OTHER_NODE, REMOTE, WORLD, STRANGER):
        yield Check(f"IPv{family} in the tunnel to {place.identity}, no endpoint of this node",
                    [Send("overlay", tcp(REMOTE, place, family), "NO_LOCAL_ENDPOINT", _BY_IPV4)])  # fmt: skip
    for place in (A, B):
        for source, tunnel in ((REMOTE, _BY_IPV4), (REMOTE_BY_IPV6, _BY_IPV6)):
            yield Check(f"IPv{family} in the tunnel of {source.identity} to {place.identity}",
                        [Send("overlay", tcp(source, place, family), "redirect", tunnel)])  # fmt: skip
