"""Tiers: the rows of a subject against a naive walk over the rules, and an explanation that names every tier."""

from collections.abc import Iterable

from hypothesis import given, settings

from kilim.model.cilium_network_policy import CILIUM_KINDS
from kilim.model.facts import Facts, StateFacts
from kilim.model.fold import fold_event
from kilim.model.identity import HOST, RESERVED
from kilim.model.resolve import resolve_rows
from kilim.model.rules import PolicyRules, PortRange, Rule, peer_matches
from kilim.model.settings import ALWAYS, NEVER
from kilim.model.state import State
from kilim.model.tables import ADMIN, ALLOW, BASELINE, DENY, EGRESS, INGRESS, NORMAL, PASS, tier_flag
from kilim.model.verdict import ALLOWED, judge_rows
from kilim.v1 import events_pb2 as pb
from tests.pure.model.histories import histories

PACKETS = ((6, 80), (6, 79), (6, 88), (6, 8080), (17, 53), (17, 80), (132, 80), (1, 8))


def port_matches(facts: Facts, rule: Rule, receiver: int, protocol: int, port: int) -> bool:
    if rule.ports is None:
        return True
    for each in rule.ports:
        if each.protocol != protocol:
            continue
        if isinstance(each, PortRange):
            if each.first <= port <= each.last:
                return True
        elif any((o.name, o.protocol, o.port) == (each.name, protocol, port) for o in facts.named_ports(receiver)):
            return True
    return False


def naive(state: State, facts: Facts, subject: int, direction: int, peer: int, protocol: int, port: int) -> bool:
    """Rule by rule: admin by priority and number, then all of NORMAL, then baseline; of the own node NORMAL alone."""
    if facts.enforcement == NEVER:
        return True
    known = RESERVED | dict(state.identities)
    receiver = subject if direction == INGRESS else peer

    def speaks(rule: Rule) -> bool:
        selected = rule.peers is None or any(peer_matches(each, known[peer]) for each in rule.peers)
        return rule.direction == direction and selected and port_matches(facts, rule, receiver, protocol, port)

    def first_match(policies: Iterable[PolicyRules], tier: int) -> int:
        found = [
            (policy.priority, rule.number, -rule.action)
            for policy in policies
            if policy.tier == tier
            for rule in policy.rules
            if speaks(rule)
        ]
        return -min(found)[2] if found else PASS  # of two alike deny counts, then allow

    policies = facts.policies_of(subject)
    admin = first_match(policies, ADMIN)
    if admin != PASS and peer != HOST:
        return admin == ALLOW
    isolating = [each for each in policies if each.tier == NORMAL and each.flags & tier_flag(NORMAL, direction)]
    actions = {rule.action for policy in policies if policy.tier == NORMAL for rule in policy.rules if speaks(rule)}
    if DENY in actions or ALLOW in actions:
        return DENY not in actions
    if peer == HOST:
        by_cilium_alone = isolating and all(policy.kind in CILIUM_KINDS for policy in isolating)
        if direction == INGRESS and not facts.allows_localhost:
            return not isolating and facts.enforcement != ALWAYS
        return direction == INGRESS or not by_cilium_alone
    if isolating or facts.enforcement == ALWAYS:
        return False
    return first_match(policies, BASELINE) != DENY


@settings(max_examples=40, deadline=None)
@given(histories)
def test_rows_say_what_the_rules_say(history: list[pb.Event]) -> None:
    state = State()
    for event in history:
        fold_event(state, event)
    facts = StateFacts(state)
    known = [number for number in (*state.identities, HOST, 2, 6) if number]
    for subject in [number for number in state.identities if 256 <= number < 1 << 16][:3]:
        flags, rows = resolve_rows(facts, subject)
        for peer in known:
            for direction in (INGRESS, EGRESS):
                for packet in PACKETS:
                    got = judge_rows(flags, rows, direction, peer, *packet) == ALLOWED
                    assert got == naive(state, facts, subject, direction, peer, *packet), (subject, peer, packet)
