"""Pairs whose verdict changes, put together for readers: the same ports, the same direction of change, the same cause.

A visitor would get wrong: a group is all of `sources` to all of `destinations`; a pod among both is not meant as its
own peer. The causes are the changed policies that take part, or, where none does, those that close the direction.
"""

from dataclasses import dataclass

from kilim.model.comparison import Comparison, Pair
from kilim.model.identity import ANY_PEER
from kilim.model.l4_set import EVERYTHING, L4Set, Range, sample_of, without
from kilim.model.reach import Reach
from kilim.model.rules import Origin, PolicyRules
from kilim.model.state import policy_key
from kilim.model.tables import EGRESS, ENFORCE_EGRESS, ENFORCE_INGRESS, INGRESS
from kilim.model.verdict import judge_tiers


@dataclass(frozen=True, slots=True)
class FlipGroup:
    """Ends by their places in `Comparison.ends`. `pairs`: of single pods, prefixes counted as one."""

    sources: tuple[int, ...]
    destinations: tuple[int, ...]
    ranges: L4Set
    allowed: bool  # afterwards
    causes: tuple[str, ...]
    pairs: int


_Alike = tuple[L4Set, bool, tuple[str, ...]]


def flip_groups(comparison: Comparison) -> list[FlipGroup]:
    """Those that begin to be denied first, then by destination and source."""
    sources: dict[tuple[_Alike, int], set[int]] = {}
    flips = _Flips(comparison)
    for pair in comparison.pairs():
        for alike in flips.of(pair):
            sources.setdefault((alike, pair.destination), set()).add(pair.source)
    destinations: dict[tuple[_Alike, frozenset[int]], set[int]] = {}
    for (alike, destination), places in sources.items():
        destinations.setdefault((alike, frozenset(places)), set()).add(destination)
    groups = [
        FlipGroup(tuple(sorted(ones)), tuple(sorted(others)), *alike, _count(comparison, ones, others))
        for (alike, ones), others in destinations.items()
    ]
    return sorted(
        (group for group in groups if group.pairs),
        key=lambda group: (group.allowed, group.destinations, group.sources, group.ranges),
    )


def _count(comparison: Comparison, sources: frozenset[int], destinations: set[int]) -> int:
    size = {number: len(comparison.ends[number].names) for number in {*sources, *destinations}}
    to_oneself = sum(size[number] for number in sources & destinations if comparison.ends[number].is_ours)
    return sum(size[one] for one in sources) * sum(size[other] for other in destinations) - to_oneself


class _Flips:
    """What each pair's change is and what causes it; pairs are many, distinct answers few."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._causes: dict[tuple[object, ...], tuple[str, ...]] = {}
        self._without: dict[tuple[int, int], L4Set] = {}

    def of(self, pair: Pair) -> list[_Alike]:
        """By which direction denies (afterwards, or denied before), as that is where the cause is."""
        found: list[_Alike] = []
        for allowed, more, less, reach in (
            (False, pair.before, pair.after, self._comparison.new),
            (True, pair.after, pair.before, self._comparison.old),
        ):
            left = self._minus(more, less)
            for way in (EGRESS, INGRESS):
                denied = self._minus(left, self._one_way(reach, pair, way)) if left else left
                if denied:
                    found.append((denied, allowed, self._cause(pair, way, denied[0], allowed)))
                    left = self._minus(left, denied)
        return found

    def _minus(self, one: L4Set, other: L4Set) -> L4Set:
        """Of shared sets."""
        key = id(one), id(other)
        if key not in self._without:
            self._without[key] = self._comparison.new.shared(without(one, other))
        return self._without[key]

    def _one_way(self, reach: Reach, pair: Pair, way: int) -> L4Set:
        own = self._comparison.ends[pair.source if way == EGRESS else pair.destination]
        subject, peer = self._ends(pair, way, reach is self._comparison.new)
        return reach.one_way(subject, way, peer) if own.is_ours else EVERYTHING

    def _ends(self, pair: Pair, way: int, now: bool) -> tuple[int, int]:
        """(subject, peer) of a direction."""
        one, other = self._comparison.ends[pair.source], self._comparison.ends[pair.destination]
        sender, receiver = (one.after, other.after) if now else (one.before, other.before)
        return (sender, receiver) if way == EGRESS else (receiver, sender)

    def _cause(self, pair: Pair, way: int, sample: Range, allowed: bool) -> tuple[str, ...]:
        """One sample is enough: who takes part is a matter of the subject, and which rule of the row."""
        subject, peer = self._ends(pair, way, True)
        before, _ = self._ends(pair, way, False)
        named = peer in self._comparison.new.named_peers(subject, way)
        key = (way, before, subject, (peer if named else ANY_PEER, sample) if allowed else None)
        if key not in self._causes:
            rules = _rules_for(self._comparison.new, subject, way, peer, sample) if allowed else ()
            self._causes[key] = self._blamed_rules(rules) if rules else self._blamed_policies(before, subject, way)
        return self._causes[key]

    def _blamed_rules(self, rules: tuple[Origin, ...]) -> tuple[str, ...]:
        changed = [each for each in rules if policy_key(*each[:3]) in self._comparison.changed_policies]
        return tuple(str(each) for each in changed or rules)

    def _blamed_policies(self, before: int, subject: int, way: int) -> tuple[str, ...]:
        """`before` and `subject` are the subject's identities before and after."""
        changed = self._comparison.changed_policies
        closing = {policy_key(*_key(rules)): rules for rules in _closing(self._comparison.new, subject, way)}
        closed = {policy_key(*_key(rules)): rules for rules in _closing(self._comparison.old, before, way)}
        changed_now = sorted(closing.keys() & changed)
        gone = sorted(closed.keys() & changed - closing.keys())
        if changed_now or gone:
            return (*(_name(closing[key]) for key in changed_now), *(f"without {_name(closed[key])}" for key in gone))
        if closing:
            return tuple(_name(rules) for rules in closing.values())
        return tuple(f"no longer selected by {_name(rules)}" for rules in closed.values())


def _closing(reach: Reach, subject: int, way: int) -> list[PolicyRules]:
    flag = ENFORCE_INGRESS if way == INGRESS else ENFORCE_EGRESS
    policies = reach.facts.policies_of(subject) if reach.facts.knows(subject) else ()
    return [policy for policy in policies if policy.flags & flag]


def _rules_for(reach: Reach, subject: int, way: int, peer: int, sample: Range) -> tuple[Origin, ...]:
    found = reach.resolution(subject)
    origins: dict[Origin, None] = {}
    _, counted = judge_tiers(found.flags, found.rows, way, peer, *sample_of(sample))
    for key in (key for keys in counted for key in keys):
        origins.update(dict.fromkeys(found.provenance.get(key, ())))
    return tuple(origins)


def _key(rules: PolicyRules) -> tuple[str, str, str]:
    return rules.kind, rules.namespace, rules.name


def _name(rules: PolicyRules) -> str:
    return f"{rules.kind} {rules.namespace}/{rules.name}" if rules.namespace else f"{rules.kind} {rules.name}"
