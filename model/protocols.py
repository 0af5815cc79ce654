"""The protocols that have ports, by name and by number, and those of ICMP, which have types instead."""

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
ICMP, ICMPV6 = 1, 58
WITH_TYPES = (ICMP, ICMPV6)
PROTOCOL_NUMBERS = {**PROTOCOLS, "ICMP": ICMP, "ICMPv6": ICMPV6}
PROTOCOL_WORDS = {number: name for name, number in PROTOCOL_NUMBERS.items()}


_ECHO_OF_IPV6 = {8: 128, 0: 129}  # request, reply


def of_family(protocol: int, port: int, is_ipv6: bool) -> tuple[int, int]:
    """ICMP as it is between addresses of that family: an echo is one of ICMPv6 where they are IPv6."""
    if protocol == ICMP and is_ipv6:
        return ICMPV6, _ECHO_OF_IPV6.get(port, port)
    return protocol, port
