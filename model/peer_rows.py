"""The rows of one peer among those of a subject: what is different about them when only that identity has changed.

Easy to get wrong: this is right only while the subject's policies are those that made the rows it holds, and the peer
is no reserved identity: a change of policies can change the rows of any peer, and with it what covers other rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from kilim.model.facts import Facts
from kilim.model.identity import ANY_PEER
from kilim.model.resolve import ANY_L4, L4, broader_l4s, l4s_of_names, l4s_of_ranges, passing_directions, value_of
from kilim.model.rules import PolicyRules, PortName, Rule
from kilim.model.settings import NEVER
from kilim.model.tables import EGRESS, INGRESS, PolicyKey, PolicyRows

RowChanges = dict[PolicyKey, int | None]  # None: the row goes


def changed_rows(facts: Facts, subject: int, peer: int, held: PolicyRows) -> RowChanges:
    """From the rows that the subject holds to those of `resolve_rows`, as far as they are of that peer."""
    policies = facts.policies_of(subject) if facts.enforcement != NEVER and facts.knows(subject) else ()
    wanted, possible = _rows_of(facts, subject, peer, policies)
    if any(policy.uses_port_names(EGRESS) for policy in policies):  # by ports that the peer had
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


def _rows_of(
    facts: Facts, subject: int, peer: int, policies: Sequence[PolicyRules]
) -> tuple[PolicyRows, list[PolicyKey]]:
    """The rows of the peer with those that others cover, and the keys that it can have had by port numbers."""
    passing = passing_directions(facts, policies)
    wanted: PolicyRows = {}
    possible: list[PolicyKey] = []
    for policy in policies:
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
