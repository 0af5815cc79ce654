"""What `kilim why` reports, made from history: an explanation as of an event, or the event that changed the verdict."""

import difflib
from typing import Any

from kilim.cli.event import event_name, event_summary
from kilim.cli.explanation import explanation_data, explanation_lines, flow_text, outcome_text
from kilim.cli.failure import Failure
from kilim.cli.history.backwards import Stretch, flip_before, focused_at, life_of, since_when, stretches
from kilim.cli.history.rebuild import seq_at, state_at
from kilim.cli.history.source import HistorySource
from kilim.cli.history.times import format_time
from kilim.cli.output import plain, to_yaml
from kilim.model.explain import Explanation, explain
from kilim.model.flips import Flip, Outcome, Parties, flow_of, outcome
from kilim.model.focus import Focused
from kilim.model.fold import entry_of
from kilim.model.state import State
from kilim.v1 import events_pb2 as pb

Report = tuple[dict[str, Any], list[str]]

_NOUNS: dict[str, Any] = {
    "node": pb.Node,
    "identity": pb.Identity,
    "endpoint": pb.Endpoint,
    "policy": pb.Policy,
    "service": pb.Service,
    "endpoint_slice": pb.EndpointSlice,
}


def explain_at(history: HistorySource, at: str | None, parties: Parties) -> Report:
    focused, newest = _focused(history, at, parties)
    seq, explanation = focused.state.seq, explained(focused, parties)
    known = since_when(history, seq, explanation, newest)
    data = explanation_data(parties, seq, explanation, known)
    return data, list(explanation_lines(parties, seq, explanation, known))


def bisect(history: HistorySource, at: str | None, parties: Parties) -> Report:
    """The verdict may change back and forth: the last change counts, so history is searched from its end."""
    focused, newest = _focused(history, at, parties)
    seq, now = focused.state.seq, outcome(explained(focused, parties).verdict)
    flip, oldest = flip_before(history, seq, parties, newest)
    data = {"flow": flow_text(parties), "seq": seq, "verdict": outcome_text(*now)}
    lines = [outcome_text(*now), f"{flow_text(parties)}, as of event {seq}", ""]
    if flip is None:
        return {**data, "atOrBefore": oldest}, [*lines, f"so since event {oldest} or before: no older event is held"]
    return {**data, **_flip_data(flip)}, [*lines, *_flip_lines(flip)]


def explained(focused: Focused, parties: Parties) -> Explanation:
    tables = {name: each.tables for name, each in focused.nodes.items()}
    flow = flow_of(focused.state, tables, parties)
    assert not isinstance(flow, str)
    return explain(flow, tables, focused.state)


def _focused(history: HistorySource, at: str | None, parties: Parties) -> tuple[Focused, Stretch]:
    """Without folding the whole state, which takes seconds where there are 100,000 endpoints."""
    seq = history.span().last_seq if at is None else seq_at(history, at, "--at")
    focused, newest = focused_at(history, seq, parties)
    for end in (parties.source, parties.destination):
        if isinstance(end, str) and end not in focused.state.endpoints:
            raise _unknown_pod(history, state_at(history, seq), end)
    return focused, newest


def _unknown_pod(history: HistorySource, state: State, key: str) -> Failure:
    """Why there is no such pod: not running, not yet, no longer, or misspelt."""
    if key in state.pods:
        return Failure(f"pod {key} runs on no node as of event {state.seq}: it has no endpoint")
    span = history.span()
    before = after = ""
    for stretch in stretches(history, span.last_seq):
        for seq, event, came in life_of(stretch.events(), key):
            when = f"event {seq} ({format_time(event.time_ns)}, {event.actor or 'unknown'})"
            if seq > state.seq and came and not after:
                after = f"it came at {when}"
            if seq <= state.seq and not came:
                before = f"it went at {when}"
        if before or (after and stretch.seq <= state.seq):
            break
    if before or after:
        return Failure(
            f"no pod {key} as of event {state.seq}: {' and '.join(each for each in (before, after) if each)}"
        )
    close = difflib.get_close_matches(key, state.endpoints.data, 3)
    return Failure(f"no pod {key} as of event {state.seq}" + (f"; there is {', '.join(close)}" if close else ""))


def _flip_lines(flip: Flip) -> list[str]:
    event = flip.event
    lines = [
        f"last changed by event {flip.seq}, {format_time(event.time_ns)}, {event.actor or 'unknown'}",
        f"  event    {event_name(event)} {event_summary(event)}",
        f"  cause    {event.cause or '-'}",
        f"  before   {_text(flip.before)}",
        f"  after    {_text(flip.after)}",
    ]
    return [*lines, "", *_change(flip)]


def _change(flip: Flip) -> list[str]:
    """The noun before and after, line by line."""
    entry = entry_of(flip.event)
    table, new = flip.change.table, entry[2] if entry is not None else None
    old_lines, new_lines = (_noun_lines(table, value) for value in (flip.change.old, new))
    diff = difflib.unified_diff(old_lines, new_lines, n=2, lineterm="")
    return [line for line in diff if not line.startswith(("---", "+++", "@@"))]


def _noun_lines(table: str, value: bytes | None) -> list[str]:
    if value is None or table not in _NOUNS:
        return []
    shown = plain(_NOUNS[table].FromString(value))
    return to_yaml(shown.get("manifest") or shown).splitlines()


def _flip_data(flip: Flip) -> dict[str, Any]:
    event = flip.event
    return {
        "before": _text(flip.before),
        "after": _text(flip.after),
        "event": {
            "seq": flip.seq,
            "time": format_time(event.time_ns),
            "actor": event.actor,
            "cause": event.cause,
            "event": event_name(event),
            "summary": event_summary(event),
        },
        "change": _change(flip),
    }


def _text(found: Outcome) -> str:
    return outcome_text(*found)
