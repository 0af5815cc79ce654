"""networking.k8s.io/v1 NetworkPolicy: the manifest's spec to frozen values, validated as the API server does.

A visitor would get wrong: `peers`/`ports` that are missing or empty mean any (None here, so that it cannot be taken for
"none"), while a section's empty rule list means nothing is allowed. IPv6 CIDRs are accepted and validated but dropped
after that: the datapath is IPv4-only, so they select nothing yet.

Defaulting of policyTypes, where none are given:
1. Ingress always.  2. Egress if there is at least one egress rule.
A section whose direction is not among the policyTypes counts for nothing.
"""

import ipaddress
from dataclasses import dataclass
from typing import NamedTuple

from kilim.model.address import Cidr, parse_cidr
from kilim.model.fields import Object, child, read_integer, read_list, read_object, read_text
from kilim.model.invalid import Invalid
from kilim.model.names import check_port_name, check_port_number, invalid_value, unsupported_value
from kilim.model.protocols import PROTOCOLS
from kilim.model.selector import Selector, parse_selector

INGRESS_TYPE = "Ingress"
EGRESS_TYPE = "Egress"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class PodPeer(NamedTuple):
    """None in `namespaces`: the policy's own namespace. None in `pods`: all pods of the namespaces."""

    pods: Selector | None
    namespaces: Selector | None


class IpBlock(NamedTuple):
    """`cidr` is None where the block is IPv6."""

    cidr: Cidr | None
    excepts: tuple[Cidr, ...]


class PortMatch(NamedTuple):
    """`port` is a number, a name or None (all ports); `end_port` is set for a range of numbers."""

    protocol: int
    port: int | str | None
    end_port: int | None = None


Peer = PodPeer | IpBlock


@dataclass(frozen=True, slots=True)
class PolicyRule:
    peers: tuple[Peer, ...] | None
    ports: tuple[PortMatch, ...] | None


@dataclass(frozen=True, slots=True)
class NetworkPolicySpec:
    """`ingress`/`egress` is None where the policy says nothing about that direction."""

    pods: Selector
    ingress: tuple[PolicyRule, ...] | None
    egress: tuple[PolicyRule, ...] | None


def parse_network_policy_spec(value: object, path: str = "spec") -> NetworkPolicySpec:
    """Raises `Invalid`. A missing spec or podSelector is the empty one, as for the API server."""
    fields = read_object(value, path, ("podSelector", "policyTypes", "ingress", "egress"))
    pods = parse_selector(fields.get("podSelector"), child(path, "podSelector"))
    ingress = _parse_rules(fields.get("ingress"), child(path, "ingress"), "from")
    egress = _parse_rules(fields.get("egress"), child(path, "egress"), "to")
    types = _parse_policy_types(fields.get("policyTypes"), child(path, "policyTypes"))
    if not types:
        types = (INGRESS_TYPE, EGRESS_TYPE) if egress else (INGRESS_TYPE,)
    return NetworkPolicySpec(
        pods,
        ingress if INGRESS_TYPE in types else None,
        egress if EGRESS_TYPE in types else None,
    )


def _parse_policy_types(value: object, path: str) -> tuple[str, ...]:
    types = tuple(read_text(each, f"{path}[{i}]") for i, each in enumerate(read_list(value, path)))
    if len(types) > 2:
        raise invalid_value(path, list(types), "may not specify more than two policyTypes")
    for number, each in enumerate(types):
        if each not in (INGRESS_TYPE, EGRESS_TYPE):
            raise unsupported_value(f"{path}[{number}]", each, (INGRESS_TYPE, EGRESS_TYPE))
    return types


def _parse_rules(value: object, path: str, peers_field: str) -> tuple[PolicyRule, ...]:
    return tuple(_parse_rule(each, f"{path}[{i}]", peers_field) for i, each in enumerate(read_list(value, path)))


def _parse_rule(value: object, path: str, peers_field: str) -> PolicyRule:
    fields = read_object(value, path, ("ports", peers_field))
    peers_path, ports_path = child(path, peers_field), child(path, "ports")
    ports = [_parse_port(p, f"{ports_path}[{i}]") for i, p in enumerate(read_list(fields.get("ports"), ports_path))]
    peers = [_parse_peer(p, f"{peers_path}[{i}]") for i, p in enumerate(read_list(fields.get(peers_field), peers_path))]
    return PolicyRule(tuple(peers) or None, tuple(ports) or None)


def _parse_peer(value: object, path: str) -> Peer:
    fields = read_object(value, path, ("podSelector", "namespaceSelector", "ipBlock"))
    if not fields:
        raise Invalid(path, "Required value: must specify a peer")
    if "ipBlock" in fields:
        if len(fields) > 1:
            raise Invalid(path, "Forbidden: may not specify both ipBlock and another peer")
        return _parse_ip_block(fields["ipBlock"], child(path, "ipBlock"))

    def selector(name: str) -> Selector | None:
        return parse_selector(fields[name], child(path, name)) if name in fields else None

    return PodPeer(selector("podSelector"), selector("namespaceSelector"))


def _parse_ip_block(value: object, path: str) -> IpBlock:
    fields = read_object(value, path, ("cidr", "except"))
    cidr_path, except_path = child(path, "cidr"), child(path, "except")
    text = read_text(fields.get("cidr"), cidr_path)
    if not text:
        raise Invalid(cidr_path, "Required value")
    block = _parse_network(text, cidr_path)
    excepts = []
    for number, each in enumerate(read_list(fields.get("except"), except_path)):
        each_path = f"{except_path}[{number}]"
        each_text = read_text(each, each_path)
        inner = _parse_network(each_text, each_path)
        if inner == block or inner.version != block.version or not inner.subnet_of(block):  # type: ignore[arg-type]
            raise invalid_value(each_path, each_text, "must be a strict subset of `cidr`")
        excepts.append(_ipv4(inner))
    return IpBlock(_ipv4(block), tuple(sorted({cidr for cidr in excepts if cidr is not None})))


def _ipv4(network: Network) -> Cidr | None:
    if isinstance(network, ipaddress.IPv6Network):
        return None
    return Cidr(int(network.network_address), network.prefixlen)


def _parse_network(text: str, path: str) -> Network:
    """Host bits are cleared as the API server does; a zone, a netmask or a bare address is refused."""
    try:
        if ":" not in text:
            return ipaddress.IPv4Network(parse_cidr(text))
        _, slash, length = text.partition("/")
        if "%" in text or not slash or not (length.isascii() and length.isdigit()):
            raise ValueError
        return ipaddress.IPv6Network(text, strict=False)
    except ValueError:
        rule = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
        raise invalid_value(path, text, rule) from None


def _parse_port(value: object, path: str) -> PortMatch:
    fields = read_object(value, path, ("protocol", "port", "endPort"))
    protocol_path = child(path, "protocol")
    protocol = read_text(fields["protocol"], protocol_path) if "protocol" in fields else "TCP"
    if protocol not in PROTOCOLS:
        raise unsupported_value(protocol_path, protocol, tuple(PROTOCOLS))
    port, end_port = _parse_port_range(fields, path)
    return PortMatch(PROTOCOLS[protocol], port, end_port)


def _parse_port_range(fields: Object, path: str) -> tuple[int | str | None, int | None]:
    port_path, end_path = child(path, "port"), child(path, "endPort")
    port = fields.get("port")
    end_port = read_integer(fields["endPort"], end_path) if "endPort" in fields else None
    if port is None:
        if end_port is not None:
            raise invalid_value(end_path, end_port, "may not be specified when `port` is not specified")
        return None, None
    if isinstance(port, str):
        if end_port is not None:
            raise invalid_value(end_path, end_port, "may not be specified when `port` is non-numeric")
        check_port_name(port, port_path)
        return port, None
    number = read_integer(port, port_path)
    check_port_number(number, port_path)
    if end_port is not None:
        if end_port < number:
            raise invalid_value(end_path, end_port, "must be greater than or equal to `port`")
        check_port_number(end_port, end_path)
    return number, end_port
