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
    if probe["proto"] != "ICMP" or (field.get("family") or "IPv4") != "IPv4":
        return False
    kind = field["type"]
    number = ICMP_TYPES.get(kind, -1) if isinstance(kind, str) and not kind.isdigit() else int(kind)
    return bool(number == probe["port"])
