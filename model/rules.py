"""The inner form of policy: rules over identity labels and prefixes, whatever kind of object they came from.

A visitor would get wrong: `peers=None` is any peer at all, the world included, while `peers=()` is nobody; the same
goes for `ports`. A rule has an action so that deny can be said in it; NetworkPolicy says allow only.

What a NetworkPolicy becomes:
1. Subjects are the pods of its namespace that its podSelector selects.
2. A podSelector alone selects in the policy's namespace; a namespaceSelector selects pods by their namespace's labels;
   both together must both hold. Only identities with a namespace label are pods, so no other is ever selected.
3. An ipBlock selects the CIDR identities inside `cidr` and outside every `except`; an IPv6 one selects nobody.
4. A manifest that cannot be read (a newer version wrote it) closes both directions for all pods of its namespace, of
   every namespace if it has none: never silently open (I9).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeVar

from kilim.model.address import Cidr
from kilim.model.identity import Identity
from kilim.model.labels import NAMESPACE, NAMESPACE_LABELS_PREFIX, label_map
from kilim.model.network_policy import NetworkPolicySpec, PodPeer, PolicyRule, parse_network_policy_spec
from kilim.model.network_policy import PortMatch as KubernetesPort
from kilim.model.nouns import Policy
from kilim.model.selector import EXISTS, IN, Requirement, Selector, selector_of
from kilim.model.tables import ALLOW, EGRESS, ENFORCE_EGRESS, ENFORCE_INGRESS, INGRESS

_POD_LABELS_PREFIX = "k8s:"
_T = TypeVar("_T")


class CidrPeer(NamedTuple):
    cidr: Cidr
    excepts: tuple[Cidr, ...]

    def selects(self, cidr: Cidr) -> bool:
        return self.cidr.contains(cidr) and not any(each.contains(cidr) for each in self.excepts)


class PortRange(NamedTuple):
    """Ports `first`..`last` of a protocol; 0..65535 is all of them."""

    protocol: int
    first: int
    last: int


class PortName(NamedTuple):
    """The ports of that name and protocol at whoever receives."""

    protocol: int
    name: str


Peer = Selector | CidrPeer
Port = PortRange | PortName


class Rule(NamedTuple):
    direction: int
    number: int  # position in its section of the manifest
    action: int
    peers: tuple[Peer, ...] | None
    ports: tuple[Port, ...] | None


class Origin(NamedTuple):
    """Who asked for a row."""

    kind: str
    namespace: str
    name: str
    rule: int

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {where} rule {self.rule}"


@dataclass(frozen=True, slots=True)
class PolicyRules:
    """One policy object. `flags`: the directions in which it isolates the subjects it selects."""

    kind: str
    namespace: str
    name: str
    subjects: Selector
    flags: int
    rules: tuple[Rule, ...]

    def origin(self, rule: Rule) -> Origin:
        return Origin(self.kind, self.namespace, self.name, rule.number)

    def uses_port_names(self, direction: int) -> bool:
        return any(isinstance(p, PortName) for r in self.rules if r.direction == direction for p in r.ports or ())


def peer_matches(peer: Peer, identity: Identity) -> bool:
    """Whether the peer of a rule selects an identity."""
    if isinstance(peer, CidrPeer):
        cidr = identity.cidr
        return cidr is not None and peer.selects(cidr)
    return peer.matches(label_map(identity.labels))


def cidrs_of(policy: Policy) -> tuple[Cidr, ...]:
    """The prefixes that need an identity of their own: every cidr and except of the directions that count, sorted."""
    cidrs: set[Cidr] = set()
    for rule in compile_policy(policy).rules:
        for peer in rule.peers or ():
            if isinstance(peer, CidrPeer):
                cidrs.update((peer.cidr, *peer.excepts))
    return tuple(sorted(cidrs))


@lru_cache(maxsize=2048)
def compile_policy(policy: Policy) -> PolicyRules:
    """Total (I1): see rule 4. The cache is a memo of a pure function."""
    try:
        manifest = json.loads(policy.manifest_json)
        if policy.kind != "NetworkPolicy" or not isinstance(manifest, dict):
            return _closed(policy)
        return _compile_network_policy(policy, parse_network_policy_spec(manifest.get("spec")))
    except (ValueError, RecursionError):
        return _closed(policy)


def _closed(policy: Policy) -> PolicyRules:
    everyone = [_in_namespace(policy.namespace) if policy.namespace else Requirement(NAMESPACE, EXISTS)]
    flags = ENFORCE_INGRESS | ENFORCE_EGRESS
    return PolicyRules(policy.kind, policy.namespace, policy.name, selector_of(everyone), flags, ())


def _compile_network_policy(policy: Policy, spec: NetworkPolicySpec) -> PolicyRules:
    flags = 0
    rules: list[Rule] = []
    for direction, flag, section in ((INGRESS, ENFORCE_INGRESS, spec.ingress), (EGRESS, ENFORCE_EGRESS, spec.egress)):
        if section is not None:
            flags |= flag
            rules += [_compile_rule(policy.namespace, direction, i, rule) for i, rule in enumerate(section)]
    subjects = selector_of([_in_namespace(policy.namespace), *_prefixed(_POD_LABELS_PREFIX, spec.pods)])
    return PolicyRules(policy.kind, policy.namespace, policy.name, subjects, flags, tuple(rules))


def _compile_rule(namespace: str, direction: int, index: int, rule: PolicyRule) -> Rule:
    peers: list[Peer] | None = None
    if rule.peers is not None:
        peers = []
        for peer in rule.peers:
            if isinstance(peer, PodPeer):
                peers.append(_compile_pod_peer(namespace, peer))
            elif peer.cidr is not None:
                peers.append(CidrPeer(peer.cidr, peer.excepts))
    ports = None if rule.ports is None else _unique(_compile_port(port) for port in rule.ports)
    return Rule(direction, index, ALLOW, None if peers is None else _unique(peers), ports)


def _compile_pod_peer(namespace: str, peer: PodPeer) -> Selector:
    if peer.namespaces is None:
        requirements = [_in_namespace(namespace)]
    else:
        requirements = [Requirement(NAMESPACE, EXISTS), *_prefixed(NAMESPACE_LABELS_PREFIX, peer.namespaces)]
    if peer.pods is not None:
        requirements += _prefixed(_POD_LABELS_PREFIX, peer.pods)
    return selector_of(requirements)


def _compile_port(port: KubernetesPort) -> Port:
    if isinstance(port.port, str):
        return PortName(port.protocol, port.port)
    if port.port is None:
        return PortRange(port.protocol, 0, 65535)
    return PortRange(port.protocol, port.port, port.port if port.end_port is None else port.end_port)


def _in_namespace(namespace: str) -> Requirement:
    return Requirement(NAMESPACE, IN, (namespace,))


def _prefixed(prefix: str, selector: Selector) -> list[Requirement]:
    return [Requirement(prefix + each.key, each.operator, each.values) for each in selector.requirements]


def _unique(items: Iterable[_T]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(items))


def port_prefixes(first: int, last: int) -> tuple[tuple[int, int], ...]:
    """The fewest (port, prefix_len of 16) that cover first..last exactly, ascending."""
    prefixes = []
    while first <= last:
        size = first & -first or 1 << 16
        while first + size - 1 > last:
            size >>= 1
        prefixes.append((first, 17 - size.bit_length()))
        first += size
    return tuple(prefixes)
