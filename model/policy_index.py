"""`Facts` kept up to date change by change, and who is affected by each change.

A visitor would get wrong: every `set_` answers with the tracked subjects whose rows may differ now (a few too many is
right, one too few is a hole); only tracked subjects can be asked for their policies.

  identity ──tokens──▶ peers filed under one of them ──▶ policies that use the peer ──▶ tracked subjects they select

What tokens are and where a peer is filed: `policy_tokens.py`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar

from kilim.model.address import Cidr
from kilim.model.cidr_group import GROUP_LABEL
from kilim.model.identity import ANY_PEER, HEALTH, NODE_LABEL, RESERVED, Identity
from kilim.model.labels import label_map
from kilim.model.nouns import NamedPort
from kilim.model.policy_tokens import filing_tokens, is_positive, prefix_token, tokens_of
from kilim.model.rules import CidrPeer, GroupPeer, Peer, PolicyRules, peer_matches
from kilim.model.selector import DOES_NOT_EXIST, EXISTS, Requirement
from kilim.model.settings import DEFAULT
from kilim.model.tables import EGRESS, INGRESS

_T = TypeVar("_T")
NOTHING: frozenset[int] = frozenset()


class _Selection:
    """What one distinct peer selects, and the keys of the policies that use it."""

    __slots__ = ("identities", "users")

    def __init__(self, identities: set[int]) -> None:
        self.identities = identities
        self.users: set[str] = set()


class _Subject:
    __slots__ = ("labels", "policies")

    def __init__(self) -> None:
        self.labels: Mapping[str, str] | None = None
        self.policies: set[str] = set()


class PolicyIndex:
    """`on_reselected` is told the peer of a rule and 1 or -1 whenever an identity changes what it selects."""

    def __init__(self, on_reselected: Callable[[Peer, int], None] | None = None) -> None:
        self._on_reselected = on_reselected
        self.enforcement = DEFAULT  # whoever sets another one, or the next, knows that all rows are stale
        self.allows_localhost = True
        self._known: set[int] = set()
        self._cidrs: dict[int, Cidr] = {}
        self._grouped: dict[int, Identity] = {}  # identities of prefixes that are in a group of CIDRs
        self._with_token: dict[str, set[int]] = {}
        self._policies: dict[str, PolicyRules] = {}
        self._subjects_of_policy: dict[str, set[int]] = {}
        self._selections: dict[Peer, _Selection] = {}
        self._filed: dict[str, set[Peer]] = {}
        self._filed_policies: dict[str, set[str]] = {}  # keys of policies, by their subjects as peers by themselves
        self._subjects: dict[int, _Subject] = {}
        self._ports: dict[int, dict[NamedPort, int]] = {}  # identity -> port -> how many endpoints offer it
        self._users_of_names: set[str] = set()  # policies that name ports
        for number in RESERVED:
            self.set_identity(number, None, None)

    # --- Facts

    def knows(self, identity: int) -> bool:
        return identity in self._known

    def policies_of(self, subject: int) -> Sequence[PolicyRules]:
        return [self._policies[key] for key in sorted(self._subjects[subject].policies)]

    def selected(self, peer: Peer) -> AbstractSet[int]:
        return self._selections[peer].identities

    def named_ports(self, identity: int) -> AbstractSet[NamedPort]:
        return self._ports.get(identity, {}).keys()

    def port_counts(self, identity: int) -> Mapping[NamedPort, int]:
        """How many endpoints of an identity offer each named port."""
        return self._ports.get(identity, {})

    def identities_with_ports(self) -> Iterable[int]:
        return self._ports.keys() - {ANY_PEER}

    def bearing(self, subject: int) -> tuple[bool, bool, tuple[str, ...], frozenset[NamedPort]]:
        """What sets a subject's rows apart from another's at the same time: with equal bearings they are equal."""
        keys = tuple(sorted(self._subjects[subject].policies))
        by_name = any(self._policies[key].uses_port_names(INGRESS) for key in keys if key in self._users_of_names)
        offered = frozenset(self.named_ports(subject) if by_name else ())
        return subject in self._known, subject == HEALTH, keys, offered

    def keys_of(self, subject: int) -> AbstractSet[str]:
        """Of the policies that select a tracked subject."""
        return self._subjects[subject].policies

    def subjects_of(self, key: str) -> AbstractSet[int]:
        """The tracked subjects that a policy selects."""
        return self._subjects_of_policy.get(key, NOTHING)

    def policy(self, key: str) -> PolicyRules:
        return self._policies[key]

    def users_of(self, peer: Peer) -> AbstractSet[str]:
        """Keys of the policies with a rule for this peer."""
        return self._selections[peer].users

    @property
    def users_of_names(self) -> AbstractSet[str]:
        """Keys of the policies that name ports."""
        return self._users_of_names

    # --- changes

    def track(self, subject: int, identity: Identity | None) -> None:
        """Start to follow the policies of a subject; `identity` is None where the log does not know it."""
        self._subjects[subject] = _Subject()
        self._relabel(subject, identity or RESERVED.get(subject))

    def untrack(self, subject: int) -> None:
        self._relabel(subject, None)
        del self._subjects[subject]

    def set_identity(self, number: int, old: Identity | None, new: Identity | None) -> set[int]:
        """None: the log has it not; it may still be a reserved one."""
        return self.reselect(number, old, new)[0]

    def reselect(self, number: int, old: Identity | None, new: Identity | None) -> tuple[set[int], set[str]]:
        """`set_identity`, and the keys of the policies whose peers select the identity where they did not, or not where
        they did."""
        users: set[str] = set()
        old, new = old or RESERVED.get(number), new or RESERVED.get(number)
        old_tokens, new_tokens = set(tokens_of(old)), set(tokens_of(new))
        for token in old_tokens:
            if number in self._with_token.get(token, NOTHING):
                _discard(self._with_token, token, number)
        for token in new_tokens:
            self._with_token.setdefault(token, set()).add(number)
        self._known.discard(number)
        self._cidrs.pop(number, None)
        self._grouped.pop(number, None)
        if new is not None:
            self._known.add(number)
            if new.cidr is not None:
                self._cidrs[number] = new.cidr
                if any(label.startswith(GROUP_LABEL) for label in new.labels):
                    self._grouped[number] = new
        labels = {} if new is None else label_map(new.labels)
        for peer in {peer for token in old_tokens | new_tokens for peer in self._filed.get(token, ())}:
            selection = self._selections[peer]
            selects = new is not None and number != ANY_PEER and peer_matches(peer, new, labels)
            if selects != (number in selection.identities):
                (selection.identities.add if selects else selection.identities.discard)(number)
                if self._on_reselected is not None:
                    self._on_reselected(peer, 1 if selects else -1)
                users |= selection.users
        affected = set().union(*(self._subjects_of_policy[key] for key in users))
        if number in self._subjects:
            self._relabel(number, new)
            affected.add(number)
        return affected, users

    def reach_of(self, key: str) -> frozenset[int] | None:
        """The identities that a policy's rules select, so that no rows but of these come or go with it, or those of any
        peer, or its subjects are enforced otherwise. None: it has rows for others too."""
        rules = self._policies.get(key)
        if rules is None:
            return NOTHING
        if key in self._users_of_names and any(rule.peers is None and rule.direction == EGRESS for rule in rules.rules):
            return None
        return NOTHING.union(*(self._selections[peer].identities for peer in _peers_of(rules)))

    def set_policy(self, key: str, new: PolicyRules | None) -> set[int]:
        old = self._policies.pop(key, None)
        affected = self._subjects_of_policy.pop(key, set())
        for subject in affected:
            self._subjects[subject].policies.discard(key)
        for token in () if old is None else filing_tokens(old.subjects):
            _discard(self._filed_policies, token, key)
        self._users_of_names.discard(key)
        if new is not None:
            self._policies[key] = new
            self._use_peers(key, new)
            if new.uses_port_names(INGRESS) or new.uses_port_names(EGRESS):
                self._users_of_names.add(key)
            for token in filing_tokens(new.subjects):
                self._filed_policies.setdefault(token, set()).add(key)
            selected = self._selected_subjects(new)
            self._subjects_of_policy[key] = selected
            for subject in selected:
                self._subjects[subject].policies.add(key)
            affected = affected | selected
        if old is not None:
            kept = set(_peers_of(new)) if new is not None else set()
            self._drop_peers(key, set(_peers_of(old)) - kept)
        return affected

    @property
    def needs_ports(self) -> bool:
        """Whether any policy names a port. Only then need `change_ports` and `forget_ports` be called."""
        return bool(self._users_of_names)

    def forget_ports(self) -> None:
        self._ports = {}

    def change_ports(self, identity: int, gone: Iterable[NamedPort], come: Iterable[NamedPort]) -> set[int]:
        """One endpoint of an identity offers other named ports than before."""
        ports = self._ports.setdefault(identity, {})
        before = set(ports)
        for port in come:
            ports[port] = ports.get(port, 0) + 1
        for port in gone:
            ports[port] -= 1
            if not ports[port]:
                del ports[port]
        changed = ports.keys() != before
        if not ports:
            del self._ports[identity]
        return self._affected_by_ports(identity) if changed else set()

    def _affected_by_ports(self, identity: int) -> set[int]:
        affected: set[int] = set()
        for key in self._users_of_names:
            policy = self._policies[key]
            subjects = self._subjects_of_policy[key]
            if identity in subjects:
                affected.add(identity)
            if policy.uses_port_names(EGRESS) and any(
                rule.peers is None or any(identity in self.selected(peer) for peer in rule.peers)
                for rule in policy.rules
                if rule.direction == EGRESS
            ):
                affected |= subjects
        return affected

    def _relabel(self, number: int, identity: Identity | None) -> None:
        subject = self._subjects[number]
        for key in subject.policies:
            self._subjects_of_policy[key].discard(number)
        subject.labels = None if identity is None or number == HEALTH else label_map(identity.labels)
        filed = {key for token in tokens_of(identity) for key in self._filed_policies.get(token, ())}
        subject.policies = {key for key in filed if _selects(self._policies[key], subject.labels)}
        for key in subject.policies:
            self._subjects_of_policy[key].add(number)

    def _selected_subjects(self, rules: PolicyRules) -> set[int]:
        candidates: AbstractSet[int] = self._subjects.keys()
        for requirement in rules.subjects.requirements:
            if is_positive(requirement):
                candidates = min(candidates, self._having(requirement), key=len)
        tracked = (number for number in candidates if number in self._subjects)
        return {number for number in tracked if _selects(rules, self._subjects[number].labels)}

    # --- peers

    def _use_peers(self, key: str, rules: PolicyRules) -> None:
        for peer in _peers_of(rules):
            if peer not in self._selections:
                self._selections[peer] = _Selection(self._evaluate(peer))
                for token in filing_tokens(peer):
                    self._filed.setdefault(token, set()).add(peer)
            self._selections[peer].users.add(key)

    def _drop_peers(self, key: str, peers: Iterable[Peer]) -> None:
        for peer in peers:
            selection = self._selections[peer]
            selection.users.discard(key)
            if not selection.users:
                del self._selections[peer]
                for token in filing_tokens(peer):
                    _discard(self._filed, token, peer)

    def _evaluate(self, peer: Peer) -> set[int]:
        if isinstance(peer, GroupPeer):
            return {number for number, identity in self._grouped.items() if peer_matches(peer, identity)}
        if isinstance(peer, CidrPeer):
            inside = self._with_token.get(prefix_token(peer.cidr), NOTHING)
            found = {number for number in inside if peer.selects(self._cidrs[number])}
            return (found | self._members(peer)) - {ANY_PEER}
        positive = sorted((self._having(each) for each in peer.requirements if is_positive(each)), key=len)
        found = set(positive[0]).intersection(*positive[1:]) if positive else set(self._known)
        for requirement in peer.requirements:
            if not is_positive(requirement):
                found -= self._having(requirement)
        return found - {ANY_PEER}

    def _members(self, peer: CidrPeer) -> set[int]:
        """Identities of pods and nodes in it."""
        if not peer.member_keys:
            return set()
        inside, outside = (
            set().union(*(self._with_token.get(key, NOTHING) for key in keys))
            for keys in (peer.member_keys, peer.outsider_keys)
        )
        inside -= self._cidrs.keys() | outside
        nodes = inside & self._with_token.get(NODE_LABEL, NOTHING)
        return (nodes if peer.nodes else set()) | (inside - nodes if peer.pods else set())

    def _having(self, requirement: Requirement) -> AbstractSet[int]:
        """Identities with the key and, for In and NotIn, one of the values."""
        if requirement.operator in (EXISTS, DOES_NOT_EXIST):
            return self._with_token.get(requirement.key, NOTHING)
        tokens = [f"{requirement.key}={value}" for value in requirement.values]
        if len(tokens) == 1:
            return self._with_token.get(tokens[0], NOTHING)
        return NOTHING.union(*(self._with_token.get(token, NOTHING) for token in tokens))


def _selects(rules: PolicyRules, labels: Mapping[str, str] | None) -> bool:
    return labels is not None and rules.subjects.matches(labels)


def _peers_of(rules: PolicyRules) -> Iterator[Peer]:
    return (peer for rule in rules.rules for peer in rule.peers or ())


def _discard(sets: dict[str, set[_T]], key: str, item: _T) -> None:
    members = sets[key]
    members.discard(item)
    if not members:
        del sets[key]
