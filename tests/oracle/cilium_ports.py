"""Ports and ICMP types as Cilium's rules write them."""

from typing import Any

from tests.oracle.ends import End, Probe
from tests.oracle.network_policy import has_named_port

# Names of types of ICMPv4 (RFC 792 and its followers) in the words of Cilium's API reference.
ICMP_TYPES = {
    "EchoReply": 0,
    "DestinationUnreachable": 3,
    "Redirect": 5,
    "Echo": 8,
    "EchoRequest": 8,
    "RouterAdvertisement": 9,
    "RouterSelection": 10,
    "TimeExceeded": 11,
    "ParameterProblem": 12,
    "Timestamp": 13,
    "TimestampReply": 14,
    "Photuris": 40,
    "ExtendedEchoRequest": 42,
    "ExtendedEchoReply": 43,
}


# Those of ICMPv6 (RFC 4443, RFC 4861 and others).
ICMPV6_TYPES = {
    "DestinationUnreachable": 1,
    "PacketTooBig": 2,
    "TimeExceeded": 3,
    "ParameterProblem": 4,
    "EchoRequest": 128,
    "EchoReply": 129,
    "RouterSolicitation": 133,
    "RouterAdvertisement": 134,
    "NeighborSolicitation": 135,
    "NeighborAdvertisement": 136,
}


def is_port(port: dict[str, Any], receiver: End, probe: Probe) -> bool:
    """ "If omitted or empty, any protocol matches" of those that have ports; "Matching on ICMP is not supported"."""
    protocol = port.get("protocol") or "ANY"
    if probe["proto"] == "ICMP" or protocol not in ("ANY", probe["proto"]):
        return False
    number = str(port["port"])
    if not number.isdigit():  # "EndPort is ignored if Port is a named port."; names are those of RFC 6335: in any case
        return has_named_port(receiver, number.lower(), probe)
    first = int(number)
    if first == 0:
        return True
    return bool(first <= probe["port"] <= (port.get("endPort") or first))


def is_icmp(field: dict[str, Any], probe: Probe) -> bool:
    """A probe's echo (type 8) is 128 over IPv6."""
    family = probe.get("family") or "IPv4"
    if probe["proto"] != "ICMP" or (field.get("family") or "IPv4") != family:
        return False
    kind, names = field["type"], ICMP_TYPES if family == "IPv4" else ICMPV6_TYPES
    number = names.get(kind, -1) if isinstance(kind, str) and not kind.isdigit() else int(kind)
    return bool(number == (128 if family == "IPv6" and probe["port"] == 8 else probe["port"]))
