"""Every protocol number, by every program."""

from collections.abc import Iterator

from tests.datapath import packets
from tests.datapath.check import Check, Send
from tests.datapath.places import FAMILIES, NODE, OTHER_NODE, REMOTE, WORLD, A, B, packet

# Who sends by which program, and what becomes of it where policy has nothing against it.
WAYS = {
    "from_endpoint": (A, "redirect", None),
    "to_endpoint": (NODE, "pass", None),
    "from_netdev": (WORLD, "redirect", None),
    "overlay": (REMOTE, "redirect", (OTHER_NODE.ipv4, REMOTE.identity)),
}

_EXTENSIONS = {packets.HOP_BY_HOP, packets.ROUTING, packets.FRAGMENT, packets.AUTHENTICATION, packets.DESTINATION}


def _expected(family: int, protocol: int, passes: str) -> str:
    """Of a payload of zeros: as an extension header it announces hop-by-hop options, which may only be first."""
    if protocol in (packets.TCP, packets.UDP, packets.SCTP, packets.ICMP if family == 4 else packets.ICMPV6):
        return passes
    if family == 6 and protocol in _EXTENSIONS:
        return "INVALID_EXTHDR"
    return "CT_UNKNOWN_L4"


def checks() -> Iterator[Check]:
    for program, (source, passes, tunnel) in WAYS.items():
        for family in FAMILIES:
            for protocol in range(256):
                frame = packet(source, B, family, protocol, bytes(40))
                step = Send(program, frame, _expected(family, protocol, passes), tunnel)
                yield Check(f"{program}: protocol {protocol} over IPv{family}", [step])
