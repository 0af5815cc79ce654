"""An explanation of a verdict for people and for programs: one line that answers, then the entries of each node.

Easy to get wrong: reasons are Hubble's words, in which a subject that is not in the tables is a policy drop too.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from kilim.cli.history.times import format_time
from kilim.cli.table import table
from kilim.model.address import format_ip
from kilim.model.explain import Entry, Explanation, Judgement, Match, PolicyName, Row
from kilim.model.flips import Parties
from kilim.model.focus import Since, Thing
from kilim.model.identity import RESERVED_NAMES
from kilim.model.protocols import PROTOCOL_WORDS, WITH_TYPES
from kilim.model.resolve import BUILT_IN
from kilim.model.rows import ACTION_NAMES, TIER_NAMES
from kilim.model.rules import Origin
from kilim.model.settings import ALWAYS, NEVER
from kilim.model.tables import ADMIN, AUDITED, BASELINE, EGRESS, INGRESS, NORMAL, PASS, PolicyKey, action_of, tier_flag
from kilim.model.verdict import ALLOWED, NO_SUBJECT, POLICY_DENIED, POLICY_DENY

DIRECTIONS = {INGRESS: "ingress", EGRESS: "egress"}
HEADERS = ("TABLE", "KEY", "VALUE", "EVENT", "TIME", "ACTOR", "CAUSE")
MOST_NAMES = 3  # in a heading; the table below it has them all

Known = Mapping[Thing, Since]


def flow_text(parties: Parties) -> str:
    protocol = PROTOCOL_WORDS.get(parties.protocol, str(parties.protocol))
    l4 = f"{protocol} type {parties.port}" if parties.protocol in WITH_TYPES else f"{protocol} {parties.port}"
    source, target = (end if isinstance(end, str) else format_ip(end) for end in parties[:2])
    return f"{source} -> {target} {l4}"


def drop_reason(reason: str) -> str:
    return POLICY_DENIED if reason == NO_SUBJECT else reason


def outcome_text(allowed: bool | None, direction: int | None, reason: str) -> str:
    """`allowed`, `denied: POLICY_DENIED, ingress`."""
    if allowed is None:
        return f"none: no pod {reason}"
    denied = f"denied: {drop_reason(reason)}, {DIRECTIONS[direction or 0]}"
    if allowed and reason != ALLOWED:
        return f"allowed (AUDIT: would be {denied})"
    return "allowed" if allowed else denied


def explanation_lines(parties: Parties, seq: int, explanation: Explanation, known: Known) -> Iterable[str]:
    found = explanation.verdict
    dropping = next((each for each in explanation.judgements if each.drops), None)
    objecting = dropping or next((each for each in explanation.judgements if each.is_audited), None)
    where = f" at {objecting.node}" if objecting is not None else ""
    yield f"{outcome_text(found.allowed, found.direction, found.reason)}{where}"
    yield f"{flow_text(parties)}, as of event {seq}"
    if not explanation.judgements:
        flow = explanation.flow
        is_own = flow.source.ip == flow.destination.ip
        yield "packets from an endpoint to itself never leave it" if is_own else "neither end is an endpoint"
    for number, judgement in enumerate(explanation.judgements):
        yield ""
        yield judgement_text(judgement, reached=number == 0 or dropping is not explanation.judgements[0])
        yield table(HEADERS, rows_of(judgement, known))


def judgement_text(judgement: Judgement, reached: bool) -> str:
    direction, subject = DIRECTIONS[judgement.direction], judgement.subject
    deciding, passing = ([each for each in judgement.matches if _passes(each) == way] for way in (False, True))
    rules, passed = _rules_text(deciding), f", passed on by {_rules_text(passing)}" if passing else ""
    if judgement.reason == POLICY_DENY:
        text = f"denied by {rules}"
    elif not judgement.is_known and judgement.reason != ALLOWED:
        text = f"denied, the log does not know identity {subject}"
    elif judgement.reason != ALLOWED and judgement.enforcement == ALWAYS:
        text = "denied, enable-policy is always and no rule allows it"
    elif judgement.reason != ALLOWED:
        text = f"denied, no rule allows it; closed by {_listed(map(str, judgement.isolating))}"
    elif deciding:
        text = f"allowed by {rules}"
    elif judgement.enforcement == NEVER:
        text = "open, enable-policy is never"
    else:
        text = f"open, no policy closes {direction} for identity {subject}"
    audited = "; audit mode forwards it" if judgement.is_audited else ""
    return f"{direction} at {judgement.node}{'' if reached else ' (not reached)'}: {text}{passed}{audited}"


def _passes(match: Match) -> bool:
    return action_of(match.entry.value) == PASS


def _rules_text(matches: Iterable[Match]) -> str:
    return _listed(dict.fromkeys(rule_text(origin) for match in matches for origin in match.origins))


def rule_text(origin: Origin) -> str:
    return f"Kilim itself: {origin.name}" if origin.kind == BUILT_IN else str(origin)


def _listed(names: Iterable[str]) -> str:
    """As many as a line can show."""
    every = list(names)
    more = f" and {len(every) - MOST_NAMES} more" if len(every) > MOST_NAMES else ""
    return ", ".join(every[:MOST_NAMES]) + more


def rows_of(judgement: Judgement, known: Known) -> Iterable[tuple[object, ...]]:
    for entry, name in zip(judgement.entries, ("endpoints", "ipcache", "ipcache", "subjects"), strict=True):
        yield name, _key_text(entry), _value_text(name, entry), *since_cells(known, entry.row)
    for match in judgement.matches:
        entry = match.entry
        yield "policy", _key_text(entry), ACTION_NAMES[action_of(entry.value)], *since_cells(known, entry.row)
        for origin in match.origins:
            yield "↳ rule", rule_text(origin), "asks for it", *since_cells(known, PolicyName(*origin[:3]))
    if judgement.is_enforced and all(_passes(match) for match in judgement.matches):
        yield "policy", f"none for {identity_text(judgement.peer)} or any", "no row", "-", "-", "-", "-"
        for policy in judgement.isolating:
            yield "↳ closed", str(policy), "selects it", *since_cells(known, policy)


def _key_text(entry: Entry) -> str:
    if entry.row is None:
        return entry.sought
    key: Any = entry.row.key
    match entry.row.table:
        case "ipcache":
            return f"{format_ip(key[0])}/{key[1]}"
        case "policy":
            return policy_key_text(key[0], key[1])
        case _:
            return entry.sought


def policy_key_text(subject: int, key: PolicyKey) -> str:
    """`258 from 257 TCP 5432`, `admin 258 from any any port`"""
    word = "from" if key.direction == INGRESS else "to"
    tier = "" if key.tier == NORMAL else f"{TIER_NAMES[key.tier]} "
    return f"{tier}{subject} {word} {identity_text(key.peer) if key.peer else 'any'} {l4_text(key)}"


def l4_text(key: PolicyKey) -> str:
    if not key.protocol:
        return "any port"
    word = PROTOCOL_WORDS.get(key.protocol, str(key.protocol))
    name = word + (" type" if key.protocol in WITH_TYPES else "")
    if not key.port_prefix_len:
        return f"{word} any type" if key.protocol in WITH_TYPES else f"{name} any port"
    last = key.port + (1 << (16 - key.port_prefix_len)) - 1
    return f"{name} {key.port}" if last == key.port else f"{name} {key.port}-{last}"


def identity_text(number: int) -> str:
    return f"{number} ({RESERVED_NAMES[number]})" if number in RESERVED_NAMES else str(number)


def _value_text(name: str, entry: Entry) -> str:
    if entry.value is None:
        return f"no row: identity {identity_text(2)}" if name == "ipcache" else "no row"
    match name:
        case "endpoints":
            audited = ", audit mode" if entry.value.flags & AUDITED else ""
            return f"endpoint {entry.value[0]}, identity {entry.value[1]}{audited}"
        case "ipcache":
            identity, tunnel = entry.value
            return f"identity {identity_text(identity)}" + (f" behind {format_ip(tunnel)}" if tunnel else "")
        case _:
            closed = [word for flag, word in _FLAGS if entry.value & flag]
            return f"enforced: {', '.join(closed)}" if closed else "nothing enforced"


_FLAGS = tuple(
    (tier_flag(tier, direction), word if tier == NORMAL else f"{TIER_NAMES[tier]} {word}")
    for tier in (NORMAL, ADMIN, BASELINE)
    for direction, word in DIRECTIONS.items()
)


def since_cells(known: Known, thing: Thing | None) -> tuple[str, ...]:
    since = known.get(thing) if thing is not None else None
    if since is None:
        return ("-",) * 4
    if since.event is None:
        return f"<={since.seq}", "-", "-", "-"
    event = since.event
    return str(since.seq), format_time(event.time_ns), event.actor or "-", event.cause or "-"


def explanation_data(parties: Parties, seq: int, explanation: Explanation, known: Known) -> dict[str, Any]:
    found = explanation.verdict
    return {
        "flow": flow_text(parties),
        "seq": seq,
        "verdict": "allowed" if found.allowed else "denied",
        "reason": None if found.reason == ALLOWED else drop_reason(found.reason),
        "audited": found.audited,
        "direction": None if found.direction is None else DIRECTIONS[found.direction],
        "sourceIdentity": found.source_identity,
        "destinationIdentity": found.destination_identity,
        "nodes": [_judgement_data(each, known) for each in explanation.judgements],
    }


def _judgement_data(judgement: Judgement, known: Known) -> dict[str, Any]:
    names = ("endpoints", "ipcache", "ipcache", "subjects")
    return {
        "node": judgement.node,
        "direction": DIRECTIONS[judgement.direction],
        "verdict": "allowed" if judgement.reason == ALLOWED else "denied",
        "reason": None if judgement.reason == ALLOWED else drop_reason(judgement.reason),
        "audited": judgement.is_audited,
        "enforced": judgement.is_enforced,
        "enablePolicy": judgement.enforcement,
        "subject": judgement.subject,
        "peer": judgement.peer,
        "entries": [
            {"table": name, "key": _key_text(entry), "value": _value_text(name, entry), **since_data(known, entry.row)}
            for name, entry in zip(names, judgement.entries, strict=True)
        ],
        "policyRows": [
            {
                "key": _key_text(match.entry),
                "value": ACTION_NAMES[action_of(match.entry.value)],
                **since_data(known, match.entry.row),
                "rules": [
                    {**origin._asdict(), **since_data(known, PolicyName(*origin[:3]))} for origin in match.origins
                ],
            }
            for match in judgement.matches
        ],
        "isolatedBy": [{**policy._asdict(), **since_data(known, policy)} for policy in judgement.isolating],
    }


def since_data(known: Known, thing: Row | PolicyName | None) -> dict[str, Any]:
    since = known.get(thing) if thing is not None else None
    if since is None:
        return {}
    if since.event is None:
        return {"event": {"seq": since.seq, "atOrBefore": True}}
    event = since.event
    return {
        "event": {
            "seq": since.seq,
            "time": format_time(event.time_ns),
            "actor": event.actor,
            "cause": event.cause,
        }
    }
