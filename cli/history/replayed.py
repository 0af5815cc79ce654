"""What `kilim replay` prints: each form as data and as lines of text.

Easy to get wrong: cells are those of `kilim bpf TABLE list`, as text and as data: both can be laid side by side.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kilim.cli.event import event_name, event_summary
from kilim.cli.history.node import NodeMoment, RowEvents, check_node, follow_node, knows_node, node_at
from kilim.cli.history.rebuild import earliest_moment, moment_at, seq_at
from kilim.cli.history.source import HistorySource
from kilim.cli.history.times import format_time
from kilim.cli.output import typed_row
from kilim.cli.table import table as text_table
from kilim.model.rows import COLUMNS, RowChange, RowValue, cells, differences, rows_of
from kilim.v1.events_pb2 import Event

Printed = tuple[dict[str, Any], Sequence[str]]
EVENT_COLUMNS = ("SEQ", "TIME", "ACTOR", "WHAT")


def tables_at(source: HistorySource, node: str, at: str | None, tables: Sequence[str]) -> Printed:
    moment = moment_at(source, _seq(source, at))
    check_node(moment.state, node)
    made = node_at(moment, node)
    data = {
        **_heading(made),
        "tables": {
            name: [
                typed_row(COLUMNS[name], cells(name, key, value)) for key, value in rows_of(made.tables, name).items()
            ]
            for name in tables
        },
    }
    return data, [*_heading_lines(made), *_sections(made, tables, None)]


def tables_with_events(source: HistorySource, node: str, at: str | None, tables: Sequence[str]) -> Printed:
    seq = _seq(source, at)
    start = earliest_moment(source, seq)
    _, made, events = follow_node(source, start, node, seq)
    check_node(start.state, node)
    return {}, [*_heading_lines(made), *_sections(made, tables, events)]


def difference(source: HistorySource, node: str, at: str | None, until: str, tables: Sequence[str]) -> Printed:
    """From the earlier of the two to the later."""
    first, last = sorted((_seq(source, at), _seq(source, until, "--diff")))
    start = moment_at(source, first)
    known = knows_node(start.state, node)
    before, after, events = follow_node(source, start, node, last)
    if not known:
        check_node(start.state, node)
    changes = [change for change in differences(before.tables, after.tables) if change.table in tables]
    data = {
        "node": node,
        "from": _digests(before),
        "to": _digests(after),
        "changes": [_change_data(change, events) for change in changes],
    }
    lines = [f"Node           {node}", "", "From", *_digest_lines(before), "", "To", *_digest_lines(after), ""]
    return data, lines + (_difference_lines(changes, tables, events) or ["No row differs."])


def _seq(source: HistorySource, text: str | None, option: str = "--to") -> int:
    return source.span().last_seq if text is None else seq_at(source, text, option)


def _heading(made: NodeMoment) -> dict[str, Any]:
    return {"node": made.node, **_digests(made)}


def _digests(made: NodeMoment) -> dict[str, Any]:
    return {
        "seq": made.seq,
        "chain": made.chain.hex(),
        "state_digest": made.state_digest.hex(),
        "table_digest": made.table_digest.hex(),
    }


def _heading_lines(made: NodeMoment) -> list[str]:
    return [f"Node           {made.node}", *_digest_lines(made)]


def _digest_lines(made: NodeMoment) -> list[str]:
    return [
        f"Event          {made.seq}",
        f"Chain          {made.chain.hex()}",
        f"State digest   {made.state_digest.hex()}",
        f"Table digest   {made.table_digest.hex()}",
    ]


def _sections(made: NodeMoment, tables: Iterable[str], events: RowEvents | None) -> Iterator[str]:
    for name in tables:
        headers = [column.upper() for column in COLUMNS[name]] + (list(EVENT_COLUMNS) if events else [])
        rows = rows_of(made.tables, name)
        body = [cells(name, key, value) + (_origin(events, name, key) if events else []) for key, value in rows.items()]
        yield f"\n{name}: {len(body)} {'row' if len(body) == 1 else 'rows'}"
        if body:
            yield text_table(headers, body)


def _origin(events: RowEvents, name: str, key: tuple[int, ...]) -> list[str]:
    found = events.of(name, key)
    return [f"<={events.after_seq}", "", "", ""] if found is None else _event_cells(*found)


def _event_cells(seq: int, event: Event) -> list[str]:
    return [str(seq), format_time(event.time_ns), event.actor, _what(event)]


def _what(event: Event) -> str:
    return f"{event_name(event)} {event_summary(event)}".rstrip()


def _difference_lines(changes: Sequence[RowChange], tables: Iterable[str], events: RowEvents) -> list[str]:
    lines: list[str] = []
    for name in tables:
        body = [row for change in changes if change.table == name for row in _signed(change, events)]
        if body:
            headers = ["", *(column.upper() for column in COLUMNS[name]), *EVENT_COLUMNS]
            lines += [*([""] if lines else []), name, text_table(headers, body)]
    return lines


def _signed(change: RowChange, events: RowEvents) -> Iterator[list[str]]:
    """A row that went with -, one that came with +, one that changed with both."""
    found = events.of(change.table, change.key)
    assert found is not None, change
    for sign, value in (("-", change.old), ("+", change.new)):
        if value is not None:
            yield [sign, *cells(change.table, change.key, value), *_event_cells(*found)]


def _change_data(change: RowChange, events: RowEvents) -> dict[str, Any]:
    found = events.of(change.table, change.key)
    assert found is not None, change
    seq, event = found
    return {
        "table": change.table,
        "change": "added" if change.old is None else "removed" if change.new is None else "changed",
        "old": _row_data(change, change.old),
        "new": _row_data(change, change.new),
        "event": {
            "seq": seq,
            "time": format_time(event.time_ns),
            "actor": event.actor,
            "cause": event.cause,
            "event": event_name(event),
            "what": event_summary(event),
        },
    }


def _row_data(change: RowChange, value: RowValue | None) -> dict[str, int | str | None] | None:
    if value is None:
        return None
    return typed_row(COLUMNS[change.table], cells(change.table, change.key, value))
