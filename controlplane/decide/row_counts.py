"""Exactly how many rows of `policy` a subject has, without making them. PURE.

  subject ─▶ its bearing ─▶ a part per direction and tier (no row covers one of another part) ─▶ rules of its policies

Peers that the same rules of a part select have the same rows but for their numbers: they are counted, not gone through.
What was counted stays until one of its policies is another one or selects other peers.

Easy to get wrong: `wanted` is a count before covering, and with the rows that a subject may get without any new rule:
what can only grow by what `PolicyBounds` sees grow. `rows` is exact, and can grow where that shrinks.
"""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import NamedTuple

from kilim.model.identity import HEALTH, HOST
from kilim.model.nouns import NamedPort
from kilim.model.policy_index import PolicyIndex
from kilim.model.resolve import (
    ANY_L4,
    HOST_ROWS,
    L4,
    PASSING_ON,
    enforced_flags,
    host_rows,
    l4s_of_names,
    l4s_of_ranges,
    passing_directions,
    uncovered,
    value_of,
)
from kilim.model.rules import PolicyRules, PortName, Rule
from kilim.model.tables import EGRESS, INGRESS, NORMAL, PolicyKey, tier_flag

_Values = dict[L4, int]


class Count(NamedTuple):
    wanted: int
    rows: int

    def plus(self, other: "Count") -> "Count":
        return Count(self.wanted + other.wanted, self.rows + other.rows)


class _Bearing(NamedTuple):
    enforcement: str
    allows_localhost: bool
    known: bool
    health: bool
    policies: tuple[str, ...]
    offered: frozenset[NamedPort]


class _Part(NamedTuple):
    """What the number of rows in one direction and tier depends on, besides the peers that its policies select."""

    direction: int
    tier: int
    policies: tuple[str, ...]  # those with rules in it
    offered: frozenset[NamedPort]  # by the subject, where that matters
    host: int | None  # the value of the row for the node
    passing: bool
    may_pass: bool


_NONE = Count(0, 0)


class RowCounts:
    """`parts_counted`: how often rules and the peers that they select were gone through."""

    def __init__(self, index: PolicyIndex) -> None:
        self.parts_counted = 0
        self._index = index
        self._counted: dict[_Bearing | _Part, Count] = {}
        self._users: dict[str, set[_Bearing | _Part]] = {}  # policy -> what was counted with it

    def of_subject(self, number: int) -> Count:
        index = self._index
        bearing = _Bearing(index.enforcement, index.allows_localhost, *index.bearing(number))
        count = self._counted.get(bearing)
        return self._keep(bearing, self._count(number, bearing.offered)) if count is None else count

    def forget(self, policies: Iterable[str]) -> None:
        """They are other ones, or what they select is."""
        for key in policies if self._users else ():
            for each in self._users.pop(key, ()):
                del self._counted[each]
                for other in each.policies:
                    if other != key:
                        self._users[other].discard(each)

    def _keep(self, what: _Bearing | _Part, count: Count) -> Count:
        self._counted[what] = count
        for key in what.policies:
            self._users.setdefault(key, set()).add(what)
        return count

    def _count(self, number: int, offered: frozenset[NamedPort]) -> Count:
        index = self._index
        if number == HEALTH:
            return _NONE
        if not index.knows(number):
            return Count(len(HOST_ROWS), 0)
        named = {key: index.policy(key) for key in sorted(index.keys_of(number))}
        policies = list(named.values())
        host = host_rows(index, enforced_flags(index, policies), policies)
        passing = passing_directions(index, policies)
        total = _NONE
        for key in HOST_ROWS:
            relevant = tuple(name for name, rules in named.items() if _speaks(rules, key))
            parts = [named[name] for name in relevant]
            by_name = key.direction == INGRESS and any(each.uses_port_names(INGRESS) for each in parts)
            may_pass = key.tier == NORMAL and any(not each.flags & tier_flag(NORMAL, key.direction) for each in parts)
            total = total.plus(
                self._of(
                    _Part(
                        key.direction,
                        key.tier,
                        relevant,
                        offered if by_name else frozenset(),
                        host.get(key),
                        key.tier == NORMAL and key.direction in passing,
                        may_pass,
                    )
                )
            )
        return total

    def _of(self, part: _Part) -> Count:
        if not part.policies:
            return Count(1, int(part.host is not None))
        count = self._counted.get(part)
        if count is None:
            self.parts_counted += 1
            count = self._keep(part, _count_part(self._index, part))
        return count


def _speaks(policy: PolicyRules, key: PolicyKey) -> bool:
    return policy.tier == key.tier and any(rule.direction == key.direction for rule in policy.rules)


class _Asked(NamedTuple):
    """What one rule asks for."""

    value: int
    l4s: tuple[L4, ...]
    names: tuple[PortName, ...]  # to be looked up at each peer


def _count_part(index: PolicyIndex, part: _Part) -> Count:
    everybody: _Values = {}
    asked: list[_Asked] = []
    masks: dict[int, int] = {}  # peer -> bits of the rules in `asked` that select it
    passing = {part.direction} if part.passing else set()
    for key in part.policies:
        policy = index.policy(key)
        for rule in policy.rules:
            if rule.direction != part.direction:
                continue
            each = _asked(rule, value_of(policy, rule, passing), part)
            if rule.peers is None:
                _add(everybody, each.l4s, each.value)
                if not each.names:
                    continue
                each = each._replace(l4s=())
            _mark(masks, _selected(index, rule), 1 << len(asked))
            asked.append(each)
    wanted_of_everybody = len(everybody.keys() | ({ANY_L4} if part.may_pass else set()))
    if part.passing:
        _add(everybody, (ANY_L4,), PASSING_ON)
    of_everybody = Count(wanted_of_everybody, len(uncovered(tuple(everybody.items()), {})))
    return of_everybody.plus(_count_host(index, asked, masks, part, everybody)).plus(
        _count_peers(index, asked, masks, everybody)
    )


def _count_host(
    index: PolicyIndex, asked: list[_Asked], masks: dict[int, int], part: _Part, everybody: _Values
) -> Count:
    """Of the peer that has a row without any rule as well; takes it out of `masks`."""
    own = _rows_of(masks.pop(HOST, 0), asked, index.named_ports(HOST))
    wanted = len(own.keys() | {ANY_L4})
    if part.host is not None:
        _add(own, (ANY_L4,), part.host)
    return Count(wanted, len(uncovered(tuple(own.items()), everybody)))


def _count_peers(index: PolicyIndex, asked: list[_Asked], masks: dict[int, int], everybody: _Values) -> Count:
    if any(each.names for each in asked):
        alike = Counter((mask, frozenset(index.named_ports(peer))) for peer, mask in masks.items())
    else:
        alike = Counter({(mask, frozenset[NamedPort]()): peers for mask, peers in Counter(masks.values()).items()})
    total = _NONE
    for (mask, offered), peers in alike.items():
        own = _rows_of(mask, asked, offered)
        remaining = len(uncovered(tuple(own.items()), everybody))
        total = total.plus(Count(peers * len(own), peers * remaining))
    return total


def _selected(index: PolicyIndex, rule: Rule) -> AbstractSet[int]:
    """Of a rule for anybody whoever may be reached by name."""
    if rule.peers is None:
        return set(index.identities_with_ports())
    if len(rule.peers) == 1:
        return index.selected(rule.peers[0])
    return set[int]().union(*(index.selected(peer) for peer in rule.peers))


def _mark(masks: dict[int, int], peers: AbstractSet[int], bit: int) -> None:
    get = masks.get
    for peer in peers:
        masks[peer] = get(peer, 0) | bit


def _asked(rule: Rule, value: int, part: _Part) -> _Asked:
    numbers, names = _ports_of(rule)
    if part.direction == EGRESS:
        return _Asked(value, numbers, names)
    return _Asked(value, (*numbers, *l4s_of_names(names, part.offered)), ())


@lru_cache(maxsize=4096)
def _ports_of(rule: Rule) -> tuple[tuple[L4, ...], tuple[PortName, ...]]:
    if rule.ports is None:
        return (ANY_L4,), ()
    return tuple(l4s_of_ranges(rule)), tuple(port for port in rule.ports if isinstance(port, PortName))


def _rows_of(mask: int, asked: list[_Asked], offered: AbstractSet[NamedPort]) -> _Values:
    """Of a peer that these rules select and that offers these ports."""
    rows: _Values = {}
    for number, each in enumerate(asked):
        if mask >> number & 1:
            _add(rows, each.l4s, each.value)
            _add(rows, l4s_of_names(each.names, offered), each.value)
    return rows


def _add(rows: _Values, l4s: Iterable[L4], value: int) -> None:
    for l4 in l4s:
        rows[l4] = max(value, rows.get(l4, value))
