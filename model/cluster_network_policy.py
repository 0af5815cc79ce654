"""policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy: the manifest's spec to rules of the admin and baseline tiers.

A visitor would get wrong: lists that are there must not be empty, and a peer, a subject and a protocol have exactly one
field each; networks select pods and nodes too; a policy without rules in a direction says nothing there. The pod's own
node is never among the nodes that a rule selects: they always reach each other (`resolve.py`).
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from kilim.model.fields import Object, child, read_any_object, read_integer, read_list, read_object, read_text
from kilim.model.invalid import Invalid
from kilim.model.labels import NAMESPACE, NAMESPACE_LABELS_PREFIX
from kilim.model.names import invalid_value, unsupported_value
from kilim.model.network_policy import POD_LABELS_PREFIX, parse_network, prefixed
from kilim.model.node_selector import nodes_where
from kilim.model.nouns import Policy
from kilim.model.protocols import PROTOCOLS
from kilim.model.rules import LAST_PRIORITY, CidrPeer, Peer, PolicyRules, Port, PortName, PortRange, Rule, unique
from kilim.model.selector import EXISTS, Requirement, Selector, parse_selector, selector_of
from kilim.model.tables import ADMIN, ALLOW, BASELINE, DENY, EGRESS, INGRESS, PASS, tier_flag

CLUSTER_NETWORK_POLICY = "ClusterNetworkPolicy"
NOT_YET = "not yet enforced"

_TIERS = {"Admin": ADMIN, "Baseline": BASELINE}
_ACTIONS = {"Accept": ALLOW, "Deny": DENY, "Pass": PASS}
_MOST_ITEMS = 25
_LONGEST_NAME = 100
_LONGEST_CIDR = 43
_DOMAIN_WORD = "[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?"
_DOMAIN_NAME = rf"(\*\.)?({_DOMAIN_WORD}\.)+{_DOMAIN_WORD}\.?"
_WITHOUT_NAMED_PORTS = ("networks", "nodes", "domainNames")


class ClusterNetworkPolicySpec(NamedTuple):
    tier: int
    priority: int
    subjects: Selector
    rules: tuple[Rule, ...]


def compile_cluster_network_policy(policy: Policy, manifest: Mapping[str, object]) -> tuple[PolicyRules, ...]:
    """Raises `Invalid`."""
    inside = not policy.cidrs_exclude_pods, policy.cidrs_include_nodes
    spec = parse_cluster_network_policy_spec(manifest.get("spec"), *inside)
    flags = 0
    for rule in spec.rules:
        flags |= tier_flag(spec.tier, rule.direction)
    names = policy.kind, policy.namespace, policy.name
    return (PolicyRules(*names, spec.subjects, flags, spec.rules, spec.tier, spec.priority),)


def parse_cluster_network_policy_spec(
    value: object, pods_in_networks: bool = True, nodes_in_networks: bool = True
) -> ClusterNetworkPolicySpec:
    """Raises `Invalid`: what is right but not enforced yet is refused once all else has been found right."""
    path = "spec"
    fields = read_object(value, path, ("tier", "priority", "subject", "ingress", "egress"))
    tier = _TIERS[_read_choice(fields, path, "tier", _TIERS)]
    priority_path = child(path, "priority")
    priority = read_integer(_required(fields, path, "priority"), priority_path)
    if not 0 <= priority <= LAST_PRIORITY:
        raise invalid_value(priority_path, priority, f"must be between 0 and {LAST_PRIORITY}, inclusive")
    subjects = _parse_subject(_required(fields, path, "subject"), child(path, "subject"))
    parser = _RuleParser(pods_in_networks, nodes_in_networks)
    rules = [*parser.parse_section(fields, path, INGRESS), *parser.parse_section(fields, path, EGRESS)]
    if parser.refused:
        raise parser.refused[0]
    return ClusterNetworkPolicySpec(tier, priority, subjects, tuple(rules))


class _RuleParser:
    """Notes in `refused` what is right but not enforced yet."""

    def __init__(self, *inside_networks: bool) -> None:
        self.refused: list[Invalid] = []
        self._inside_networks = inside_networks  # pods, nodes

    def parse_section(self, fields: Object, path: str, direction: int) -> list[Rule]:
        section = "ingress" if direction == INGRESS else "egress"
        items = _read_items(fields.get(section), child(path, section), least=0)
        return [self._parse_rule(item, path, direction, section, i) for i, item in enumerate(items)]

    def _parse_rule(self, value: object, spec: str, direction: int, section: str, number: int) -> Rule:
        path = f"{child(spec, section)}[{number}]"
        peers_field = "from" if direction == INGRESS else "to"
        fields = read_object(value, path, ("name", "action", peers_field, "protocols"))
        name_path = child(path, "name")
        if len(read_text(fields.get("name"), name_path)) > _LONGEST_NAME:
            raise Invalid(name_path, f"Too long: may not be more than {_LONGEST_NAME} characters")
        action = _ACTIONS[_read_choice(fields, path, "action", _ACTIONS)]
        peers_path, protocols_path = child(path, peers_field), child(path, "protocols")
        items = _read_items(_required(fields, path, peers_field), peers_path)
        parsed = [self._parse_peer(item, f"{peers_path}[{i}]", direction) for i, item in enumerate(items)]
        peers = unique(peer for each in parsed for peer in each)
        ports: list[Port] | None = None
        if "protocols" in fields:
            written = _read_items(fields["protocols"], protocols_path)
            ports = [each for i, item in enumerate(written) for each in _parse_protocol(item, f"{protocols_path}[{i}]")]
            if any(isinstance(port, PortName) for port in ports):
                _check_named_ports(items, peers_path)
        return Rule(direction, section, number, action, peers, None if ports is None else unique(ports))

    def _parse_peer(self, value: object, path: str, direction: int) -> list[Peer]:
        outside = () if direction == INGRESS else ("nodes", "networks", "domainNames")
        field, chosen = _read_one_of(value, path, ("namespaces", "pods", *outside))
        field_path = child(path, field)
        match field:
            case "nodes":
                return nodes_where(parse_selector(chosen, field_path))
            case "networks":
                return self._parse_networks(chosen, field_path)
            case "domainNames":
                self._check_domain_names(chosen, field_path)
                return []
            case _:
                return [_parse_pods(field, chosen, field_path)]

    def _parse_networks(self, value: object, path: str) -> list[Peer]:
        texts = _read_texts(value, path)
        networks = []
        for number, text in enumerate(texts):
            if len(text) > _LONGEST_CIDR:
                raise Invalid(f"{path}[{number}]", f"Too long: may not be more than {_LONGEST_CIDR} characters")
            networks.append(parse_network(text, f"{path}[{number}]"))
        return [CidrPeer(cidr, (), *self._inside_networks) for cidr in networks if cidr is not None]

    def _check_domain_names(self, value: object, path: str) -> None:
        for number, text in enumerate(_read_texts(value, path)):
            if not re.fullmatch(_DOMAIN_NAME, text):
                raise invalid_value(f"{path}[{number}]", text, "must be a domain name, or *. and a domain name")
        self.refused.append(Invalid(path, NOT_YET))


def _parse_subject(value: object, path: str) -> Selector:
    field, chosen = _read_one_of(value, path, ("namespaces", "pods"))
    return _parse_pods(field, chosen, child(path, field))


def _parse_pods(field: str, value: object, path: str) -> Selector:
    """Of `namespaces` all pods, of `pods` those that both selectors select."""
    if field == "namespaces":
        return _pods_where(parse_selector(value, path), Selector())
    fields = read_object(value, path, ("namespaceSelector", "podSelector"))
    namespaces = parse_selector(fields.get("namespaceSelector"), child(path, "namespaceSelector"))
    return _pods_where(namespaces, parse_selector(_required(fields, path, "podSelector"), child(path, "podSelector")))


def _pods_where(namespaces: Selector, pods: Selector) -> Selector:
    in_them = prefixed(NAMESPACE_LABELS_PREFIX, namespaces)
    return selector_of([Requirement(NAMESPACE, EXISTS), *in_them, *prefixed(POD_LABELS_PREFIX, pods)])


def _parse_protocol(value: object, path: str) -> list[Port]:
    """A named port is one of any protocol."""
    numbers = {name.lower(): number for name, number in PROTOCOLS.items() if name in ("TCP", "UDP", "SCTP")}
    field, chosen = _read_one_of(value, path, (*numbers, "destinationNamedPort"))
    field_path = child(path, field)
    if field == "destinationNamedPort":
        name = read_text(chosen, field_path)
        if not name:
            raise Invalid(field_path, "Required value")
        return [PortName(number, name) for number in numbers.values()]
    fields = read_object(chosen, field_path, ("destinationPort",))
    return [
        _parse_port(
            _required(fields, field_path, "destinationPort"), child(field_path, "destinationPort"), numbers[field]
        )
    ]


def _parse_port(value: object, path: str, protocol: int) -> PortRange:
    field, chosen = _read_one_of(value, path, ("number", "range"))
    field_path = child(path, field)
    if field == "number":
        number = _read_port(chosen, field_path)
        return PortRange(protocol, number, number)
    fields = read_object(chosen, field_path, ("start", "end"))
    start, end = (_read_port(_required(fields, field_path, name), child(field_path, name)) for name in ("start", "end"))
    if start >= end:
        raise invalid_value(child(field_path, "end"), end, "must be greater than `start`")
    return PortRange(protocol, start, end)


def _read_port(value: object, path: str) -> int:
    number = read_integer(value, path)
    if not 1 <= number <= 65535:
        raise invalid_value(path, number, "must be between 1 and 65535, inclusive")
    return number


def _check_named_ports(peers: list[object], path: str) -> None:
    for number, peer in enumerate(peers):
        field = next(iter(read_any_object(peer, path)))
        if field in _WITHOUT_NAMED_PORTS:
            raise Invalid(f"{path}[{number}].{field}", "Forbidden: may not be set together with a destinationNamedPort")


def _required(fields: Object, path: str, name: str) -> object:
    if name not in fields:
        raise Invalid(child(path, name), "Required value")
    return fields[name]


def _read_choice(fields: Object, path: str, name: str, choices: Mapping[str, int]) -> str:
    text = read_text(_required(fields, path, name), child(path, name))
    if text not in choices:
        raise unsupported_value(child(path, name), text, tuple(choices))
    return text


def _read_one_of(value: object, path: str, names: tuple[str, ...]) -> tuple[str, object]:
    fields = read_object(value, path, names)
    if len(fields) != 1:
        raise Invalid(path, f"must have exactly one of {', '.join(names)}")
    return next(iter(fields.items()))


def _read_items(value: object, path: str, least: int = 1) -> list[object]:
    items = read_list(value, path)
    if len(items) < least:
        raise Invalid(path, f"must have at least {least} item")
    if len(items) > _MOST_ITEMS:
        raise Invalid(path, f"Too many: must have at most {_MOST_ITEMS} items")
    return items


def _read_texts(value: object, path: str) -> list[str]:
    """A set of texts."""
    texts = [read_text(each, f"{path}[{i}]") for i, each in enumerate(_read_items(value, path))]
    for number, text in enumerate(texts):
        if text in texts[:number]:
            raise Invalid(f"{path}[{number}]", f"Duplicate value: {text[:120]!r}")
    return texts
