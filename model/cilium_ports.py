"""Ports and ICMP types of cilium.io rules, as the inner form has them.

A visitor would get wrong: a port is a string, `"0"` is every port, a missing protocol is any protocol, and an endPort
beside a name counts for nothing. A toPorts entry without ports lets nothing through, while no toPorts at all is no
condition (None).

Protocol ANY: TCP, UDP and SCTP, on the ports given.
"""

import re

from kilim.model.cilium_layer7 import LAYER7_FIELDS, parse_layer7
from kilim.model.fields import child, read_integer, read_list, read_object, read_text
from kilim.model.invalid import Invalid
from kilim.model.names import invalid_value, unsupported_value
from kilim.model.protocols import PROTOCOL_NUMBERS, PROTOCOLS
from kilim.model.rules import Port, PortName, PortRange, unique

MOST = 40  # ports in an entry of toPorts, types in an entry of icmps
ALL_PORTS = (0, 65535)
_ICMP_OF = {"IPv4": PROTOCOL_NUMBERS["ICMP"], "IPv6": PROTOCOL_NUMBERS["ICMPv6"]}
_NOT_BUILT = ("VRRP", "IGMP")
_MATCHES_NAME = re.compile("([A-Za-z0-9]-?)*[A-Za-z](-?[A-Za-z0-9])*").fullmatch

_TYPES = {
    "IPv4": {
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
        "ExtendedEcho Request": 42,
        "ExtendedEchoRequest": 42,
        "ExtendedEcho Reply": 43,
        "ExtendedEchoReply": 43,
    },
    "IPv6": {
        "DestinationUnreachable": 1,
        "PacketTooBig": 2,
        "TimeExceeded": 3,
        "ParameterProblem": 4,
        "EchoRequest": 128,
        "EchoReply": 129,
        "MulticastListenerQuery": 130,
        "MulticastListenerReport": 131,
        "MulticastListenerDone": 132,
        "RouterSolicitation": 133,
        "RouterAdvertisement": 134,
        "NeighborSolicitation": 135,
        "NeighborAdvertisement": 136,
        "RedirectMessage": 137,
        "RouterRenumbering": 138,
        "ICMPNodeInformationQuery": 139,
        "ICMPNodeInformationResponse": 140,
        "InverseNeighborDiscoverySolicitation": 141,
        "InverseNeighborDiscoveryAdvertisement": 142,
        "HomeAgentAddressDiscoveryRequest": 144,
        "HomeAgentAddressDiscoveryReply": 145,
        "MobilePrefixSolicitation": 146,
        "MobilePrefixAdvertisement": 147,
        "DuplicateAddressRequestCodeSuffix": 157,
        "DuplicateAddressConfirmationCodeSuffix": 158,
        "ExtendedEchoRequest": 160,
        "ExtendedEchoReply": 161,
    },
}


def parse_to_ports(value: object, path: str, section: str, refused: list[Invalid]) -> tuple[Port, ...] | None:
    """None: no condition. `section` is ingress, ingressDeny, egress or egressDeny; what is right but not enforced yet
    goes to `refused`."""
    entries = read_list(value, path)
    ports: list[Port] = []
    for number, entry in enumerate(entries):
        ports += _parse_entry(entry, f"{path}[{number}]", section, refused)
    return unique(ports) if entries else None


def _parse_entry(value: object, path: str, section: str, refused: list[Invalid]) -> list[Port]:
    above = () if section.endswith("Deny") else LAYER7_FIELDS
    fields = read_object(value, path, ("ports", *above))
    ports_path = child(path, "ports")
    items = read_list(fields.get("ports"), ports_path)
    if len(items) > MOST:
        raise Invalid(ports_path, f"Too many: {len(items)}: must have at most {MOST} items")
    found: list[Port] = []
    protocols = []
    for number, item in enumerate(items):
        protocol, ports = _parse_port(item, f"{ports_path}[{number}]")
        protocols.append((protocol, ports))
        found += ports
    parse_layer7(fields, path, section, protocols, refused)
    return found


def _parse_port(value: object, path: str) -> tuple[str, list[Port]]:
    """The protocol's name and what it selects."""
    fields = read_object(value, path, ("port", "endPort", "protocol"))
    protocol = _read_protocol(fields.get("protocol"), child(path, "protocol"))
    numbers = list(PROTOCOLS.values()) if protocol == "ANY" else [PROTOCOL_NUMBERS[protocol]]
    port_path, end_path = child(path, "port"), child(path, "endPort")
    text = read_text(fields.get("port"), port_path)
    end = read_integer(fields["endPort"], end_path) if fields.get("endPort") is not None else 0
    if not 0 <= end <= 65535:
        raise invalid_value(end_path, end, "must be between 0 and 65535, inclusive")
    if not text:
        raise Invalid(port_path, "Required value: must be a number, as a string, or a name")
    if text[0] == "0" and len(text) > 1 and text.isdigit():
        raise invalid_value(port_path, text, "must be a decimal number without leading zeros")
    if not text.isascii() or not text.isdigit():
        name = _read_name(text, port_path)
        return protocol, [PortName(number, name) for number in numbers]
    first, last = _read_range(text, end, port_path, end_path)
    return protocol, [PortRange(number, first, last) for number in numbers]


def _read_protocol(value: object, path: str) -> str:
    protocol = read_text(value, path) or "ANY"
    supported = (*PROTOCOL_NUMBERS, "ANY")
    if protocol in _NOT_BUILT:
        raise Invalid(path, f"not supported: {protocol} is never forwarded")
    if protocol not in supported:
        raise unsupported_value(path, protocol, supported)
    return protocol


def _read_name(text: str, path: str) -> str:
    """In small letters: names are compared without regard to case."""
    if len(text) > 15 or not _MATCHES_NAME(text):
        rule = "must be a number from 0 to 65535, or a name of at most 15 letters, digits and single hyphens"
        raise invalid_value(path, text, rule)
    return text.lower()


def _read_range(text: str, end: int, port_path: str, end_path: str) -> tuple[int, int]:
    first = int(text) if len(text) <= 5 else 65536
    if first > 65535:
        raise invalid_value(port_path, text, "must be between 0 and 65535, inclusive")
    if first == 0:
        if end:
            raise invalid_value(end_path, end, "may not be specified when `port` is 0, which is every port")
        return ALL_PORTS
    if end and end < first:
        raise invalid_value(end_path, end, "must be greater than or equal to `port`")
    return first, end or first


def parse_icmps(value: object, path: str) -> tuple[Port, ...] | None:
    """None: no condition."""
    entries = read_list(value, path)
    ports: list[Port] = []
    for number, entry in enumerate(entries):
        entry_path = f"{path}[{number}]"
        fields_path = child(entry_path, "fields")
        items = read_list(read_object(entry, entry_path, ("fields",)).get("fields"), fields_path)
        if len(items) > MOST:
            raise Invalid(fields_path, f"Too many: {len(items)}: must have at most {MOST} items")
        for index, item in enumerate(items):
            family, kind = _parse_type(item, f"{fields_path}[{index}]")
            ports.append(PortRange(_ICMP_OF[family], kind, kind))
    return unique(ports) if entries else None


def _parse_type(value: object, path: str) -> tuple[str, int]:
    fields = read_object(value, path, ("family", "type"))
    family = read_text(fields.get("family"), child(path, "family")) or "IPv4"
    if family not in _TYPES:
        raise unsupported_value(child(path, "family"), family, tuple(_TYPES))
    kind, type_path = fields.get("type"), child(path, "type")
    if kind is None:
        raise Invalid(type_path, "Required value: must be a number from 0 to 255 or a name")
    if isinstance(kind, str) and not (kind.isascii() and kind.isdigit() and len(kind) <= 3):
        if kind not in _TYPES[family]:
            raise unsupported_value(type_path, kind, tuple(_TYPES[family]))
        return family, _TYPES[family][kind]
    number = int(kind) if isinstance(kind, str) else read_integer(kind, type_path)
    if not 0 <= number <= 255:
        raise invalid_value(type_path, number, "must be between 0 and 255, inclusive")
    return family, number
