"""The inner form of policy: rules over identity labels and prefixes, whatever kind of object they came from.

A visitor would get wrong: `peers=None` is any peer at all, the world included, while `peers=()` is nobody; the same
goes for `ports`. In NORMAL rules add up and deny wins; in ADMIN and BASELINE the first rule that matches counts, by
priority of the policies (0 first), then by its number, and what no rule matches goes on to the next tier.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from kilim.model.address import Cidr
from kilim.model.cidr_group import groups_in
from kilim.model.identity import NODE_LABEL, Identity, membership_label
from kilim.model.labels import IPV6_ONLY, NAMESPACE, label_map
from kilim.model.selector import Selector
from kilim.model.service_reference import ServiceReference
from kilim.model.tables import NORMAL, row_value

LAST_PRIORITY = 1000
_ALL_IPV4 = Cidr(0, 0)
_LAST_NUMBER = 63  # of a rule; the API allows 25 in a section
_T = TypeVar("_T")


class CidrPeer(NamedTuple):
    """`pods`, `nodes`: also endpoints, and nodes, of which an address lies in it, which they know by labels (0.0.0.0/0
    holds all of them but endpoints that say that they have IPv6 alone)."""

    cidr: Cidr
    excepts: tuple[Cidr, ...]
    pods: bool = False
    nodes: bool = False

    def selects(self, cidr: Cidr) -> bool:
        return self.cidr.contains(cidr) and not any(each.contains(cidr) for each in self.excepts)

    @property
    def member_keys(self) -> tuple[str, ...]:
        """Of these labels, each pod and node in it has one."""
        if self.cidr != _ALL_IPV4:
            return (membership_label(self.cidr),) if self.pods or self.nodes else ()
        return (*([NAMESPACE] if self.pods else ()), *([NODE_LABEL] if self.nodes else ()))

    @property
    def outsider_keys(self) -> tuple[str, ...]:
        """Labels of pods and nodes that are not in it after all."""
        outside = tuple(membership_label(each) for each in self.excepts)
        return (*outside, IPV6_ONLY) if self.cidr == _ALL_IPV4 else outside


class GroupPeer(NamedTuple):
    """Prefixes that are in a group of CIDRs which `groups` selects by its labels and name, and outside `excepts`."""

    groups: Selector
    excepts: tuple[Cidr, ...]

    def selects(self, cidr: Cidr, labels: Mapping[str, str]) -> bool:
        """`labels` are those of the identity of the prefix."""
        inside = any(self.groups.matches(group) for group in groups_in(labels))
        return inside and not any(each.contains(cidr) for each in self.excepts)


class PortRange(NamedTuple):
    """Ports `first`..`last` of a protocol; 0..65535 is all of them."""

    protocol: int
    first: int
    last: int


class PortName(NamedTuple):
    """The ports of that name and protocol at whoever receives."""

    protocol: int
    name: str


Peer = Selector | CidrPeer | GroupPeer
Port = PortRange | PortName


class Rule(NamedTuple):
    direction: int
    section: str  # the list of the manifest that it stands in: `ingress`, `specs[1].egressDeny`
    number: int  # position in that list
    action: int  # ALLOW, DENY; PASS in tiers other than NORMAL
    peers: tuple[Peer, ...] | None
    ports: tuple[Port, ...] | None
    services: tuple[ServiceReference, ...] = ()  # what these come to is among the peers once it is compiled


class Origin(NamedTuple):
    """Who asked for a row."""

    kind: str
    namespace: str
    name: str
    section: str  # none where no object asked
    rule: int

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {where}" + (f" {self.section}[{self.rule}]" if self.section else "")


@dataclass(frozen=True, slots=True)
class PolicyRules:
    """What one policy object says. `flags`: the directions of its tier (`tier_flag`) in which it speaks of the subjects
    that it selects, which in NORMAL isolates them."""

    kind: str
    namespace: str
    name: str
    subjects: Selector
    flags: int
    rules: tuple[Rule, ...]
    tier: int = NORMAL
    priority: int = 0  # of the policies of a tier other than NORMAL, the lowest speaks first

    def origin(self, rule: Rule) -> Origin:
        return Origin(self.kind, self.namespace, self.name, rule.section, rule.number)

    def row_value(self, rule: Rule) -> int:
        """What the rows of a rule have as their value: of two rules the one with the greater comes first."""
        if self.tier == NORMAL:
            return rule.action
        priority, number = min(max(self.priority, 0), LAST_PRIORITY), min(rule.number, _LAST_NUMBER)
        return row_value(rule.action, (LAST_PRIORITY - priority) * (_LAST_NUMBER + 1) + _LAST_NUMBER - number + 1)

    def uses_port_names(self, direction: int) -> bool:
        return any(isinstance(p, PortName) for r in self.rules if r.direction == direction for p in r.ports or ())


def peer_matches(peer: Peer, identity: Identity, labels: Mapping[str, str] | None = None) -> bool:
    """Whether the peer of a rule selects an identity, whose labels as a map the caller may have."""
    labels = label_map(identity.labels) if labels is None else labels
    if isinstance(peer, Selector):
        return peer.matches(labels)
    cidr = identity.cidr
    if isinstance(peer, GroupPeer):
        return cidr is not None and peer.selects(cidr, labels)
    if cidr is not None:
        return peer.selects(cidr)
    if not (peer.nodes if NODE_LABEL in labels else peer.pods) or not any(key in labels for key in peer.member_keys):
        return False
    return not any(key in labels for key in peer.outsider_keys)


def unique(items: Iterable[_T]) -> tuple[_T, ...]:
    """Each once, in the order of their first."""
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
