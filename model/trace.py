"""What policy says between two identities, step by step: who selects the subject, which rules match, which decides.

A visitor would get wrong: the steps are made from the policies, the decision from the rows that a node would have; a
test holds them together. A side is one direction of one subject: egress of the sender, ingress of the receiver.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from kilim.model.explain import PolicyName
from kilim.model.identity import ANY_PEER
from kilim.model.l4_set import Range, sample_of, stretches
from kilim.model.reach import Reach
from kilim.model.resolve import keys_of_rule
from kilim.model.rules import Origin, PolicyRules, Rule
from kilim.model.tables import ANY_PROTOCOL, EGRESS, INGRESS, NORMAL, PASS, TIERS, PolicyKey, action_of, tier_flag
from kilim.model.verdict import ALLOWED, NO_SUBJECT, judge_tiers


class Asked(NamedTuple):
    """`sender`, `receiver`: identities; one that is not ours (a prefix, a node) closes nothing itself."""

    sender: int
    receiver: int
    sender_is_ours: bool = True
    receiver_is_ours: bool = True


class RuleStep(NamedTuple):
    """A rule of a policy that selects the subject. `ports`: whether also the port, if it selects the peer."""

    origin: Origin
    action: int
    peer: bool
    ports: bool


class PolicyStep(NamedTuple):
    policy: PolicyName
    priority: int
    isolates: bool
    rules: tuple[RuleStep, ...]  # of the direction


class TierStep(NamedTuple):
    """`action`: what the tier says, None: nothing. `deciding`: the rules of the rows that say so. Not `reached`: a tier
    before it has decided."""

    tier: int
    enforced: bool
    reached: bool
    policies: tuple[PolicyStep, ...]
    action: int | None
    deciding: tuple[Origin, ...]


@dataclass(frozen=True, slots=True)
class Side:
    direction: int
    subject: int
    peer: int
    reason: str
    enforcement: str  # the setting `enable-policy`
    tiers: tuple[TierStep, ...]  # those that have something to say, in their order


@dataclass(frozen=True, slots=True)
class PortVerdict:
    """What holds for a range; the direction that drops, and the rules of it, or those that allow in each."""

    ranges: tuple[Range, ...]
    allowed: bool
    direction: int | None
    reason: str
    origins: tuple[Origin, ...]


def trace(reach: Reach, asked: Asked, protocol: int, port: int) -> tuple[Side, ...]:
    """The sides in the packet's order, each told even where the first drops already."""
    return tuple(_side(reach, *side, protocol, port) for side in _sides(asked))


def trace_ports(reach: Reach, asked: Asked) -> list[PortVerdict]:
    """All protocols and ports, those with the same answer together, in the order of the first of their ranges."""
    keys = [key for subject, way, peer in _sides(asked) for key in reach.rows(subject)[1] if _speaks(key, way, peer)]
    verdicts = [(_port_verdict(reach, asked, each), each) for each in stretches(keys)]
    found: dict[tuple[object, ...], list[Range]] = {}
    for answer, joined in groupby(verdicts, key=lambda pair: pair[0]):
        for _, same in groupby((each for _, each in joined), key=lambda one: one.protocol):
            run = list(same)
            found.setdefault(answer, []).append(Range(run[0].protocol, run[0].first, run[-1].last))
    return [PortVerdict(tuple(ranges), *answer) for answer, ranges in found.items()]  # type: ignore[arg-type]


def decision(
    reach: Reach, subject: int, direction: int, peer: int, protocol: int, port: int
) -> tuple[str, tuple[Origin, ...]]:
    """The reason, and the rules that decide; where no row does, none."""
    reason, counted = _judge(reach, subject, direction, peer, protocol, port)
    return reason, reach.resolution(subject).origins_of(counted[-1] if counted else ())


def covers(key: PolicyKey, direction: int, peer: int, protocol: int, port: int) -> bool:
    """Whether a row covers a packet."""
    if not _speaks(key, direction, peer):
        return False
    if key.protocol == ANY_PROTOCOL:
        return True
    return key.protocol == protocol and (port ^ key.port) >> (16 - key.port_prefix_len) == 0


def _sides(asked: Asked) -> Iterator[tuple[int, int, int]]:
    if asked.sender_is_ours:
        yield asked.sender, EGRESS, asked.receiver
    if asked.receiver_is_ours:
        yield asked.receiver, INGRESS, asked.sender


def _speaks(key: PolicyKey, direction: int, peer: int) -> bool:
    return key.direction == direction and key.peer in (ANY_PEER, peer)


def _port_verdict(reach: Reach, asked: Asked, stretch: Range) -> tuple[bool, int | None, str, tuple[Origin, ...]]:
    allowing: dict[Origin, None] = {}
    for subject, way, peer in _sides(asked):
        reason, origins = decision(reach, subject, way, peer, *sample_of(stretch))
        if reason != ALLOWED:
            return False, way, reason, origins
        allowing.update(dict.fromkeys(origins))
    return True, None, ALLOWED, tuple(allowing)


def _judge(
    reach: Reach, subject: int, way: int, peer: int, protocol: int, port: int
) -> tuple[str, list[tuple[PolicyKey, ...]]]:
    if not reach.facts.knows(subject):
        return NO_SUBJECT, []
    return judge_tiers(*reach.rows(subject), way, peer, protocol, port)


def _side(reach: Reach, subject: int, way: int, peer: int, protocol: int, port: int) -> Side:
    reason, counted = _judge(reach, subject, way, peer, protocol, port)
    policies = reach.facts.policies_of(subject) if reach.facts.knows(subject) else ()
    flags, rows = reach.rows(subject)
    said = {keys[0].tier: keys for keys in counted}
    tiers: list[TierStep] = []
    reached = True
    for tier in TIERS:
        keys = said.get(tier, ())
        own = (_policy_step(reach, subject, each, way, peer, protocol, port) for each in policies if each.tier == tier)
        steps = tuple(step for step in own if step.rules or step.isolates)
        enforced = bool(flags & tier_flag(tier, way))
        if steps or keys or enforced:
            action = action_of(rows[keys[0]]) if keys else None
            tiers.append(TierStep(tier, enforced, reached, steps, action, reach.resolution(subject).origins_of(keys)))
            reached = reached and (action == PASS or action is None and not (enforced and tier == NORMAL))
    return Side(way, subject, peer, reason, reach.facts.enforcement, tuple(tiers))


def _policy_step(
    reach: Reach, subject: int, policy: PolicyRules, way: int, peer: int, protocol: int, port: int
) -> PolicyStep:
    steps = []
    for rule in policy.rules:
        if rule.direction == way:
            covering = [
                key.peer
                for key in keys_of_rule(reach.facts, subject, rule, policy.tier)
                if covers(key, way, peer, protocol, port)
            ]
            steps.append(RuleStep(policy.origin(rule), rule.action, _has_peer(reach, rule, peer), bool(covering)))
    name = PolicyName(policy.kind, policy.namespace, policy.name)
    return PolicyStep(name, policy.priority, bool(policy.flags & tier_flag(policy.tier, way)), tuple(steps))


def _has_peer(reach: Reach, rule: Rule, peer: int) -> bool:
    return rule.peers is None or any(peer in reach.facts.selected(each) for each in rule.peers)
