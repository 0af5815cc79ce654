"""The rows of some peers among those of a subject: what is different about them when only these peers have changed, or
policies have that speak of these peers alone.

Easy to get wrong: it is right only while the rows of any peer stay, as they cover others. `changed_among` looks whether
they do; the rest presumes it: the subject's policies are those that made the rows it holds, and no peer is reserved.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache

from kilim.model.facts import Facts
from kilim.model.identity import ANY_PEER, HOST
from kilim.model.nouns import NamedPort
from kilim.model.resolve import (
    ANY_L4,
    L4,
    broader_l4s,
    l4s_of_names,
    l4s_of_ranges,
    passing_directions,
    resolve_rows,
    value_of,
)
from kilim.model.rules import Peer, PolicyRules, PortName, Rule
from kilim.model.settings import NEVER
from kilim.model.tables import EGRESS, INGRESS, NORMAL, PolicyKey, PolicyRows, RowChanges


class FewPeers:
    """Facts of a cluster in which rules select these peers only, and the node, which has rows without a rule, too. Not
    to be kept when the facts change."""

    def __init__(self, facts: Facts, peers: AbstractSet[int]) -> None:
        self.peers = peers | {HOST}
        self.enforcement = facts.enforcement
        self.allows_localhost = facts.allows_localhost
        self.knows = facts.knows
        self.policies_of = facts.policies_of
        self._facts = facts
        self._selected: dict[Peer, AbstractSet[int]] = {}

    def selected(self, peer: Peer) -> AbstractSet[int]:
        found = self._selected.get(peer)
        if found is None:
            found = self._selected[peer] = self._facts.selected(peer) & self.peers
        return found

    def named_ports(self, identity: int) -> AbstractSet[NamedPort]:
        return self._facts.named_ports(identity)

    def identities_with_ports(self) -> Iterable[int]:
        return self.peers & set(self._facts.identities_with_ports())


def changed_among(few: FewPeers, subject: int, flags: int | None, held: PolicyRows) -> RowChanges | None:
    """From `flags` and the rows that the subject holds to those of `resolve_rows`, where policies have changed that
    select these peers alone, now or before. None: more is different than the rows of these."""
    fresh_flags, rows = resolve_rows(few, subject)
    touched = few.peers | {ANY_PEER}
    own = {key: value for key, value in held.items() if key[1] in touched}
    if fresh_flags != flags or _of_any_peer(rows) != _of_any_peer(own):
        return None
    changes: RowChanges = {key: value for key, value in rows.items() if own.get(key) != value}
    for key in own:
        if key not in rows:
            changes[key] = None
    return changes


def changed_rows(
    facts: Facts, subject: int, peer: int, held: PolicyRows, among: Collection[PolicyRules] | None = None
) -> RowChanges:
    """From the rows that the subject holds to those of `resolve_rows`, as far as they are of that peer. `among`: the
    policies that alone give the peer rows, where it had none before or has none now."""
    policies = facts.policies_of(subject) if facts.enforcement != NEVER and facts.knows(subject) else ()
    wanted, possible = _rows_of(facts, subject, peer, policies, policies if among is None else among)
    if among is None and any(policy.uses_port_names(EGRESS) for policy in policies):  # by ports that the peer had
        possible = [key for key in held if key.peer == peer]
    changes: RowChanges = {key: None for key in possible if key in held}
    for key, value in wanted.items():
        if _is_covered(key, value, wanted, held):
            continue
        if held.get(key) == value:
            del changes[key]
        else:
            changes[key] = value
    return changes


def _of_any_peer(rows: PolicyRows) -> PolicyRows:
    return {key: value for key, value in rows.items() if key[1] == ANY_PEER}


def _rows_of(
    facts: Facts, subject: int, peer: int, policies: Sequence[PolicyRules], among: Iterable[PolicyRules]
) -> tuple[PolicyRows, list[PolicyKey]]:
    """The rows of the peer with those that others cover, and the keys that it can have had by port numbers."""
    passing = passing_directions(facts, policies) if any(each.tier == NORMAL for each in among) else set()
    wanted: PolicyRows = {}
    possible: list[PolicyKey] = []
    for policy in among if policies else ():
        for rule in policy.rules:
            names = _names(rule)
            anyone = rule.peers is None
            if anyone and not (names and rule.direction == EGRESS):
                continue
            value = value_of(policy, rule, passing)
            selected = rule.peers is not None and any(peer in facts.selected(each) for each in rule.peers)
            l4s = () if anyone else _l4s(facts, subject, rule, names)
            for l4 in l4s:
                key = PolicyKey(rule.direction, peer, *l4, policy.tier)
                possible.append(key)
                if selected and wanted.get(key, -1) < value:
                    wanted[key] = value
            if names and rule.direction == EGRESS and (anyone or selected):
                for l4 in l4s_of_names(names, facts.named_ports(peer)):
                    key = PolicyKey(EGRESS, peer, *l4, policy.tier)
                    wanted[key] = max(value, wanted.get(key, value))
    return wanted, possible


def _l4s(facts: Facts, subject: int, rule: Rule, names: tuple[PortName, ...]) -> Iterator[L4]:
    yield from _l4s_of_numbers(rule)
    if names and rule.direction == INGRESS:
        yield from l4s_of_names(names, facts.named_ports(subject))


@lru_cache(maxsize=4096)
def _l4s_of_numbers(rule: Rule) -> tuple[L4, ...]:
    return (ANY_L4,) if rule.ports is None else tuple(l4s_of_ranges(rule))


@lru_cache(maxsize=4096)
def _names(rule: Rule) -> tuple[PortName, ...]:
    return tuple(port for port in rule.ports or () if isinstance(port, PortName))


def _is_covered(key: PolicyKey, value: int, own: Mapping[PolicyKey, int], held: PolicyRows) -> bool:
    """By a broader row of the peer, or one of any peer, which is as it was. What is covered itself covers nothing that
    what covers it does not."""
    direction, peer, protocol, port, prefix_len, tier = key
    if held.get(key._replace(peer=ANY_PEER), -1) >= value:
        return True
    for broader in broader_l4s((protocol, port, prefix_len)):
        if own.get(PolicyKey(direction, peer, *broader, tier), -1) >= value:
            return True
        if held.get(PolicyKey(direction, ANY_PEER, *broader, tier), -1) >= value:
            return True
    return False
