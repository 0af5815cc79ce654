"""What `kilim policy trace` prints, as text and as data.

Easy to get wrong: a direction that is not enforced is open though policies may select its subject in the other one.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from kilim.cli.explanation import DIRECTIONS, drop_reason, identity_text, rule_text
from kilim.cli.failure import BadUsage, Failure
from kilim.cli.simulation import range_data, ranges_text
from kilim.cli.table import table
from kilim.model.address import format_ip
from kilim.model.identity import RESERVED
from kilim.model.protocols import ICMPV6, PROTOCOL_WORDS, of_family
from kilim.model.reach import Reach
from kilim.model.rows import ACTION_NAMES, TIER_NAMES
from kilim.model.rules import Origin
from kilim.model.settings import ALWAYS, NEVER
from kilim.model.state import State
from kilim.model.tables import EGRESS, NORMAL
from kilim.model.trace import Asked, PolicyStep, PortVerdict, RuleStep, Side, TierStep, trace, trace_ports
from kilim.model.trace_ends import (
    TraceEnd,
    end_of_address,
    end_of_endpoint,
    end_of_identity,
    end_of_labels,
    end_of_world,
)
from kilim.model.verdict import ALLOWED

HEADERS = ("TIER", "POLICY OR RULE", "SAYS", "PEER", "PORT", "")
PORT_HEADERS = ("PORTS", "VERDICT", "BY")


class Wanted(NamedTuple):
    """An end as the command line has it; one of `end`, `labels`, `identity` is given."""

    option: str
    end: str | int | None
    labels: str | None
    namespace: str | None
    identity: int | None
    is_world: bool = False  # the entity, over whatever family the other end has


def traced(
    state: State, sender: Wanted, receiver: Wanted, l4: tuple[int, int] | None
) -> tuple[dict[str, Any], list[str]]:
    """`l4` None: all ports. The state gets identities for labels that nobody has."""
    source, target = _ends(state, sender, receiver)
    if not source.is_ours and not target.is_ours:
        raise Failure(f"neither {source.name} nor {target.name} is a pod: no policy speaks of them")
    if isinstance(sender.end, str) and sender.end == receiver.end:
        raise Failure(f"{source.name}: packets from an endpoint to itself never leave it, so no policy speaks of them")
    l4 = _in_common_family(source, target, l4)
    reach = Reach(state)
    asked = Asked(source.identity, target.identity, source.is_ours, target.is_ours)
    heading = {"from": _end_data(state, source), "to": _end_data(state, target), "seq": state.seq}
    title = f"{source.name} -> {target.name}"
    if l4 is None:
        verdicts = trace_ports(reach, asked)
        data = {**heading, "ports": [_port_data(each) for each in verdicts]}
        return data, [f"{title}, all ports, as of event {state.seq}", "", _port_table(verdicts)]
    sides = trace(reach, asked, *l4)
    dropping = next((side for side in sides if side.reason != ALLOWED), None)
    verdict = "allowed" if dropping is None else "denied"
    word = PROTOCOL_WORDS[l4[0]]
    data = {**heading, "protocol": word, "port": l4[1], "verdict": verdict, "steps": [_side_data(s) for s in sides]}
    where = "" if dropping is None else f": {drop_reason(dropping.reason)}, {DIRECTIONS[dropping.direction]}"
    lines = [f"{verdict}{where}", f"{title} {word} {l4[1]}, as of event {state.seq}"]
    for side in sides:
        lines += ["", *_side_lines(side, source if side.direction == EGRESS else target)]
    return data, lines


def _ends(state: State, sender: Wanted, receiver: Wanted) -> tuple[TraceEnd, TraceEnd]:
    nodes = [_node_of(state, each) for each in (sender, receiver)]
    source, target = (_end(state, each, node) for each, node in zip((sender, receiver), reversed(nodes), strict=True))
    if sender.is_world:
        source = end_of_world(state, target) or source
    if receiver.is_world:
        target = end_of_world(state, source) or target
    return source, target


def _in_common_family(source: TraceEnd, target: TraceEnd, l4: tuple[int, int] | None) -> tuple[int, int] | None:
    """ICMP is asked for as it is there."""
    common = source.families & target.families
    if not common:
        raise Failure(f"{source.name} and {target.name} have no addresses of one family: no packet goes between them")
    if l4 is None:
        return None
    if l4[0] == ICMPV6 and common == {4}:
        raise Failure(f"ICMPv6 goes over IPv6, and {source.name} and {target.name} have IPv4 alone in common")
    return of_family(*l4, common == {6})


def _node_of(state: State, wanted: Wanted) -> str:
    known = isinstance(wanted.end, str) and wanted.end in state.endpoints
    return state.endpoints[str(wanted.end)].node if known else ""


def _end(state: State, wanted: Wanted, peer_node: str) -> TraceEnd:
    if isinstance(wanted.end, int):
        return end_of_address(state, wanted.end, format_ip(wanted.end), peer_node)
    if wanted.end is not None:
        if wanted.end not in state.endpoints:
            raise Failure(f"no pod {wanted.end} as of event {state.seq}")
        return end_of_endpoint(state.endpoints[wanted.end])
    if wanted.identity is not None:
        found = end_of_identity(state, wanted.identity)
        if found is None:
            raise Failure(f"no identity {wanted.identity} as of event {state.seq}")
        return found
    labels = [each.strip() for each in (wanted.labels or "").split(",") if each.strip()]
    for each in labels:
        if each in state.endpoints:
            raise BadUsage(f'{wanted.option}-labels: "{each}" is a pod, which goes with {wanted.option}')
        if not each.partition("=")[0].rpartition(":")[2]:
            raise BadUsage(f'{wanted.option}-labels: "{each}" must be KEY=VALUE')
    return end_of_labels(state, labels, wanted.namespace)


def _end_data(state: State, end: TraceEnd) -> dict[str, Any]:
    known = RESERVED.get(end.identity) or (state.identities[end.identity] if end.identity in state.identities else None)
    return {"name": end.name, "identity": end.identity, "labels": list(known.labels) if known else []}


def origin_data(origin: Origin) -> dict[str, Any]:
    return dict(origin._asdict())


def _side_lines(side: Side, end: TraceEnd) -> Iterable[str]:
    direction = DIRECTIONS[side.direction]
    word = "to" if side.direction == EGRESS else "from"
    yield (
        f"{direction} of {end.name}, identity {identity_text(side.subject)}, {word} identity "
        f"{identity_text(side.peer)}: {_outcome(side)}"
    )
    if side.tiers:
        yield table(HEADERS, [row for tier in side.tiers for row in _tier_rows(tier)])


def _outcome(side: Side) -> str:
    last = next((tier for tier in reversed(side.tiers) if tier.deciding and tier.action), None)
    by = ", ".join(map(rule_text, last.deciding)) if last else ""
    if side.reason == ALLOWED:
        why = "enable-policy is never" if side.enforcement == NEVER else "nothing closes it"
        return f"allowed by {by}" if by else f"open, {why}"
    if by:
        return f"denied by {by}"
    closing = [
        str(step.policy) for tier in side.tiers for step in tier.policies if step.isolates and tier.tier == NORMAL
    ]
    closing += ["enable-policy, which is always"] if side.enforcement == ALWAYS else []
    return "denied, no rule allows it" + (f"; closed by {', '.join(closing)}" if closing else "")


def _tier_rows(tier: TierStep) -> Iterable[tuple[object, ...]]:
    name = TIER_NAMES[tier.tier]
    if not tier.policies:
        yield name, ", ".join(map(rule_text, tier.deciding)) or "no policy selects it", _tier_says(tier), "-", "-", "-"
    for step in tier.policies:
        yield name, str(step.policy), _policy_says(tier, step), "-", "-", "-" if tier.reached else "not reached"
        for rule in step.rules:
            decides = "decides" if rule.origin in tier.deciding else "-"
            yield (
                name,
                f"↳ {rule.origin.section}[{rule.origin.rule}]",
                ACTION_NAMES[rule.action],
                *_match(rule),
                decides,
            )


def _tier_says(tier: TierStep) -> str:
    if tier.action is None:
        return "default deny" if tier.enforced and tier.tier == NORMAL else "nothing"
    return ACTION_NAMES[tier.action]


def _policy_says(tier: TierStep, step: PolicyStep) -> str:
    if tier.tier != NORMAL:
        return f"selects it, priority {step.priority}"
    return "selects it, default deny" if step.isolates else "selects it, no default deny"


def _match(rule: RuleStep) -> tuple[str, str]:
    return ("yes" if rule.peer else "no", "-" if not rule.peer else "yes" if rule.ports else "no")


def _side_data(side: Side) -> dict[str, Any]:
    return {
        "direction": DIRECTIONS[side.direction],
        "subject": side.subject,
        "peer": side.peer,
        "verdict": "allowed" if side.reason == ALLOWED else "denied",
        "reason": None if side.reason == ALLOWED else drop_reason(side.reason),
        "tiers": [_tier_data(tier) for tier in side.tiers],
    }


def _tier_data(tier: TierStep) -> dict[str, Any]:
    return {
        "tier": TIER_NAMES[tier.tier],
        "enforced": tier.enforced,
        "reached": tier.reached,
        "says": None if tier.action is None else ACTION_NAMES[tier.action],
        "decidedBy": [origin_data(each) for each in tier.deciding],
        "policies": [
            {
                **step.policy._asdict(),
                "priority": step.priority,
                "defaultDeny": step.isolates and tier.tier == NORMAL,
                "rules": [
                    {
                        "origin": origin_data(rule.origin),
                        "action": ACTION_NAMES[rule.action],
                        "selectsPeer": rule.peer,
                        "selectsPort": rule.ports if rule.peer else None,
                        "decides": rule.origin in tier.deciding,
                    }
                    for rule in step.rules
                ],
            }
            for step in tier.policies
        ],
    }


def _port_table(verdicts: Iterable[PortVerdict]) -> str:
    rows = [(ranges_text(each.ranges), _verdict_text(each), [rule_text(o) for o in each.origins]) for each in verdicts]
    return table(PORT_HEADERS, rows)


def _verdict_text(one: PortVerdict) -> str:
    return "allowed" if one.allowed else f"denied: {drop_reason(one.reason)}, {DIRECTIONS[one.direction or 0]}"


def _port_data(one: PortVerdict) -> dict[str, Any]:
    return {
        "ranges": [range_data(each) for each in one.ranges],
        "verdict": "allowed" if one.allowed else "denied",
        "reason": None if one.allowed else drop_reason(one.reason),
        "direction": None if one.direction is None else DIRECTIONS[one.direction],
        "origins": [origin_data(each) for each in one.origins],
    }
