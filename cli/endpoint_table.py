"""What `kilim endpoint get` prints: who the endpoint is, what is enforced for it, and its verdict table."""

from collections.abc import Iterable
from typing import Any

from kilim.cli.explanation import DIRECTIONS, identity_text, l4_text, rule_text, since_cells, since_data
from kilim.cli.history.backwards import things_since
from kilim.cli.history.source import HistorySource
from kilim.cli.table import table
from kilim.model.address import format_ip
from kilim.model.endpoint_policy import EndpointPolicy, PolicyEntry
from kilim.model.explain import PolicyName
from kilim.model.focus import Since, Thing
from kilim.model.protocols import PROTOCOL_WORDS
from kilim.model.rows import ACTION_NAMES, TIER_NAMES
from kilim.model.settings import audits
from kilim.model.state import State
from kilim.model.tables import TIERS, tier_flag

HEADERS = ("DIRECTION", "TIER", "PEER", "LABELS", "PORT", "ACTION", "PRECEDENCE", "FROM", "EVENT", "TIME", "ACTOR")
_OF_CILIUM = "k8s:io.cilium.k8s."


def as_lines(history: HistorySource, state: State, found: EndpointPolicy) -> Iterable[str]:
    known = _known(history, state, found)
    one = found.endpoint
    yield f"Endpoint   {one.namespace}/{one.name}"
    yield f"ID         {one.endpoint_id}"
    yield f"Node       {one.node}"
    yield f"Address    {', '.join(map(format_ip, one.ips))}"
    yield f"Identity   {identity_text(one.identity)}{'' if found.is_known else ', which the log does not know: closed'}"
    for number, label in enumerate(found.labels):
        yield f"{'Labels' if not number else '':<11}{label}"
    since = since_cells(known, found.subject_row())[0]
    yield f"Enforced   {', '.join(_enforced(found.flags)) or 'nothing'}, since event {since}"
    if _is_audited(state, found):
        yield "Audit      what its policy denies passes and is recorded"
    yield f"As of      event {state.seq}"
    yield ""
    yield (
        table(HEADERS, [_cells(found, entry, known) for entry in found.entries]) if found.entries else "no policy rows"
    )


def _known(history: HistorySource, state: State, found: EndpointPolicy) -> dict[Thing, Since]:
    return things_since(history, state.seq, found.focus(), found.things())


def _is_audited(state: State, found: EndpointPolicy) -> bool:
    return found.endpoint.policy_audit_mode or audits(state, found.endpoint.node)


def _enforced(flags: int) -> list[str]:
    return [
        f"{word} ({TIER_NAMES[tier]})"
        for direction, word in DIRECTIONS.items()
        for tier in TIERS
        if flags & tier_flag(tier, direction)
    ]


def _cells(found: EndpointPolicy, entry: PolicyEntry, known: dict[Thing, Since]) -> tuple[object, ...]:
    key = entry.key
    peer = identity_text(key.peer) if key.peer else "any"
    own = [label for label in entry.peer_labels if not label.startswith(_OF_CILIUM)]
    rules = ", ".join(map(rule_text, entry.origins)) or "-"
    action = ACTION_NAMES[entry.action]
    said = (peer, ",".join(own) or "-", l4_text(key), action, entry.precedence, rules)
    return DIRECTIONS[key.direction], TIER_NAMES[key.tier], *said, *since_cells(known, found.row_of(entry))[:3]


def as_data(history: HistorySource, state: State, found: EndpointPolicy) -> dict[str, Any]:
    known, one = _known(history, state, found), found.endpoint
    return {
        "name": one.name,
        "namespace": one.namespace,
        "id": one.endpoint_id,
        "node": one.node,
        "address": format_ip(one.ips[0]) if one.ips else None,
        "addresses": [format_ip(ip) for ip in one.ips],
        "identity": one.identity,
        "labels": list(found.labels),
        "policyAuditMode": _is_audited(state, found),
        "seq": state.seq,
        "enforced": {
            word: [TIER_NAMES[tier] for tier in TIERS if found.flags & tier_flag(tier, direction)]
            for direction, word in DIRECTIONS.items()
        },
        **since_data(known, found.subject_row()),
        "policy": [_entry_data(found, entry, known) for entry in found.entries],
    }


def _entry_data(found: EndpointPolicy, entry: PolicyEntry, known: dict[Thing, Since]) -> dict[str, Any]:
    key = entry.key
    size = 1 << (16 - key.port_prefix_len)
    return {
        "direction": DIRECTIONS[key.direction],
        "tier": TIER_NAMES[key.tier],
        "peer": key.peer,
        "peerLabels": list(entry.peer_labels),
        "protocol": PROTOCOL_WORDS.get(key.protocol, str(key.protocol)) if key.protocol else "ANY",
        "ports": {"first": key.port, "last": key.port + size - 1} if key.port_prefix_len else None,
        "action": ACTION_NAMES[entry.action],
        "precedence": entry.precedence,
        "origins": [{**origin._asdict(), **since_data(known, PolicyName(*origin[:3]))} for origin in entry.origins],
        **since_data(known, found.row_of(entry)),
    }
