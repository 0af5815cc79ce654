"""networking.k8s.io/v1 NetworkPolicy: the manifest's spec to frozen values, validated as the API server does.

A visitor would get wrong: `peers`/`ports` that are missing or empty mean any (None here, so that it cannot be taken for
"none"), while a section's empty rule list means nothing is allowed.

Defaulting of policyTypes, where none are given:
1. Ingress always.  2. Egress if there is at least one egress rule.
A section whose direction is not among the policyTypes counts for nothing.

What it becomes:
1. Subjects are the pods of its namespace that its podSelector selects.
2. A podSelector alone selects in the policy's namespace; a namespaceSelector selects pods by their namespace's labels;
   both together must both hold. Only identities with a namespace label are pods, so no other is ever selected.
3. An ipBlock selects the CIDR identities inside `cidr` and outside every `except`, and pods and nodes with an address
   that is so.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import NamedTuple

from kilim.model.address import Cidr, parse_cidr
from kilim.model.fields import Object, child, read_integer, read_list, read_object, read_text
from kilim.model.invalid import Invalid
from kilim.model.labels import NAMESPACE, NAMESPACE_LABELS_PREFIX
from kilim.model.names import check_port_name, check_port_number, invalid_value, unsupported_value
from kilim.model.nouns import Policy
from kilim.model.protocols import PROTOCOLS
from kilim.model.rules import CidrPeer, PolicyRules, Port, PortName, PortRange, Rule, unique
from kilim.model.rules import Peer as InnerPeer
from kilim.model.selector import EXISTS, IN, Requirement, Selector, parse_selector, selector_of
from kilim.model.tables import ALLOW, EGRESS, ENFORCE_EGRESS, ENFORCE_INGRESS, INGRESS

INGRESS_TYPE = "Ingress"
EGRESS_TYPE = "Egress"
POD_LABELS_PREFIX = "k8s:"


class PodPeer(NamedTuple):
    """None in `namespaces`: the policy's own namespace. None in `pods`: all pods of the namespaces."""

    pods: Selector | None
    namespaces: Selector | None


class IpBlock(NamedTuple):
    """`cidr` is None where the block is IPv4 in IPv6's form."""

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
    block = parse_network(text, cidr_path)
    excepts = []
    for number, each in enumerate(read_list(fields.get("except"), except_path)):
        each_path = f"{except_path}[{number}]"
        each_text = read_text(each, each_path)
        inner = parse_network(each_text, each_path)
        if block is not None and inner is not None and (inner == block or not block.contains(inner)):
            raise invalid_value(each_path, each_text, "must be a strict subset of `cidr`")
        excepts.append(inner)
    return IpBlock(block, tuple(sorted({each for each in excepts if each is not None})))


def parse_network(text: str, path: str) -> Cidr | None:
    """None: IPv4 in IPv6's form (`::ffff:10.0.0.0/104`), which is right and in no packet, so it selects nobody."""
    address, _, length = text.partition("/")
    if address.lower().startswith("::ffff:") and length.isdigit() and len(length) <= 3 and int(length) <= 128:
        with suppress(ValueError):
            if IPv6Address(address).ipv4_mapped is not None:
                return None
    return _parse_network(text, path)


def _parse_network(text: str, path: str) -> Cidr:
    """Host bits are cleared as the API server does; a zone, a netmask or a bare address is refused."""
    try:
        return parse_cidr(text)
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


def compile_network_policy(policy: Policy, manifest: Mapping[str, object]) -> tuple[PolicyRules, ...]:
    """See the list at the top. Raises `Invalid`."""
    spec = parse_network_policy_spec(manifest.get("spec"))
    flags = 0
    rules: list[Rule] = []
    for direction, flag, section, written in (
        (INGRESS, ENFORCE_INGRESS, "ingress", spec.ingress),
        (EGRESS, ENFORCE_EGRESS, "egress", spec.egress),
    ):
        if written is not None:
            flags |= flag
            for number, rule in enumerate(written):
                rules.append(Rule(direction, section, number, ALLOW, *_compile_rule(policy, rule)))
    subjects = selector_of([in_namespace(policy.namespace), *prefixed(POD_LABELS_PREFIX, spec.pods)])
    return (PolicyRules(policy.kind, policy.namespace, policy.name, subjects, flags, tuple(rules)),)


def _compile_rule(policy: Policy, rule: PolicyRule) -> tuple[tuple[InnerPeer, ...] | None, tuple[Port, ...] | None]:
    """Its peers and ports."""
    peers: list[InnerPeer] | None = None
    if rule.peers is not None:
        peers = []
        for peer in rule.peers:
            if isinstance(peer, PodPeer):
                peers.append(_compile_pod_peer(policy.namespace, peer))
            elif peer.cidr is not None:
                peers.append(
                    CidrPeer(peer.cidr, peer.excepts, not policy.cidrs_exclude_pods, policy.cidrs_include_nodes)
                )
    ports = None if rule.ports is None else unique(_compile_port(port) for port in rule.ports)
    return None if peers is None else unique(peers), ports


def _compile_pod_peer(namespace: str, peer: PodPeer) -> Selector:
    if peer.namespaces is None:
        requirements = [in_namespace(namespace)]
    else:
        requirements = [Requirement(NAMESPACE, EXISTS), *prefixed(NAMESPACE_LABELS_PREFIX, peer.namespaces)]
    if peer.pods is not None:
        requirements += prefixed(POD_LABELS_PREFIX, peer.pods)
    return selector_of(requirements)


def _compile_port(port: PortMatch) -> Port:
    if isinstance(port.port, str):
        return PortName(port.protocol, port.port)
    if port.port is None:
        return PortRange(port.protocol, 0, 65535)
    return PortRange(port.protocol, port.port, port.port if port.end_port is None else port.end_port)


def in_namespace(namespace: str) -> Requirement:
    return Requirement(NAMESPACE, IN, (namespace,))


def prefixed(prefix: str, selector: Selector) -> list[Requirement]:
    return [Requirement(prefix + each.key, each.operator, each.values) for each in selector.requirements]
