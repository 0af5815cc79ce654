"""Events as `kilim log` prints them: one line, or data, with what they changed where that is known."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import click

from kilim.cli.event import event_name, event_summary
from kilim.cli.history.changed import FieldChange, changed_fields, field_text
from kilim.cli.history.objects import Named, is_about
from kilim.cli.history.rebuild import Moment, event_of, moment_at, steps
from kilim.cli.history.source import HistorySource
from kilim.cli.history.times import format_time
from kilim.cli.output import plain
from kilim.kvstore.commit import chain_next
from kilim.kvstore.errors import Trimmed
from kilim.model.fold import fold_record
from kilim.model.state import State
from kilim.v1.events_pb2 import Event

LINE = "{:>8}  {:<24}  {:<21}  {:<22}  {}"
HEADING = LINE.format("SEQ", "TIME", "EVENT", "ACTOR", "WHAT")
INDENT = " " * 10


class Entry(NamedTuple):
    """`changes` None: not known, or not asked for."""

    seq: int
    chain: bytes
    event: Event
    changes: list[FieldChange] | None = None


def entries(
    source: HistorySource, first: int, last: int, about: Named | None, *, with_changes: bool
) -> Iterator[Entry]:
    before = moment_before(source, first) if with_changes and first <= last else None
    found = _plain_entries(source, first, last) if before is None else _changing_entries(source, before, last)
    for entry in found:
        if about is None or is_about(entry.event, about):
            yield entry


def entry_as_it_comes(state: State | None, seq: int, chain: bytes, record: bytes) -> Entry:
    """`state`: as of the event before it, folded on here; None: not known."""
    if state is None:
        return Entry(seq, chain, event_of(record))
    changes = fold_record(state, seq, record)
    return Entry(seq, chain, event_of(record), [field for change in changes for field in changed_fields(change)])


def entry_data(entry: Entry) -> dict[str, Any]:
    event = entry.event
    body = event.WhichOneof("body")
    return {
        "seq": entry.seq,
        "chain": entry.chain.hex(),
        "time": format_time(event.time_ns),
        "actor": event.actor,
        "cause": event.cause,
        "event": event_name(event),
        "what": plain(getattr(event, body)) if body else {},
        "changes": None if entry.changes is None else [change._asdict() for change in entry.changes],
    }


def entry_lines(entry: Entry, *, wide: bool) -> Iterator[str]:
    event = entry.event
    line = LINE.format(entry.seq, format_time(event.time_ns), event_name(event), event.actor, event_summary(event))
    if not wide:
        yield line.rstrip()
        return
    yield line.rstrip() + (f"  (cause: {event.cause})" if event.cause else "")
    for change in entry.changes or ():
        yield INDENT + field_text(change)


def moment_before(source: HistorySource, first: int) -> Moment | None:
    """The state that event `first` changes; None, with a warning, where it cannot be rebuilt."""
    try:
        return moment_at(source, first - 1)
    except Trimmed:
        click.echo(f"warning: no state before event {first} is held: what events changed is not shown", err=True)
        return None


def _plain_entries(source: HistorySource, first: int, last: int) -> Iterator[Entry]:
    for commit in source.commits(first, last) if first <= last else ():
        chain = commit.chain_before
        for seq, record in enumerate(commit.records, commit.first_seq):
            chain = chain_next(chain, record)
            if first <= seq <= last:
                yield Entry(seq, chain, event_of(record))


def _changing_entries(source: HistorySource, before: Moment, last: int) -> Iterator[Entry]:
    for seq, event, changes, chain in steps(source, before, last, progress=False):
        yield Entry(seq, chain, event, [field for change in changes for field in changed_fields(change)])
