"""States of the past, folded again from the newest snapshot before them, event by event where somebody looks on.

Easy to get wrong: a snapshot is believed only if its entries give its digest and the log goes on from its chain; one
that does not is passed over for the one before.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import click
from google.protobuf.message import DecodeError

from kilim.cli.failure import BadUsage, Failure
from kilim.cli.history.progress import counted
from kilim.cli.history.source import Base, HistorySource
from kilim.cli.history.times import milliseconds, parse_milliseconds
from kilim.kvstore.commit import CHAIN_START, chain_next
from kilim.kvstore.cursor import Cursor
from kilim.kvstore.errors import LogBroken, SnapshotBroken, Trimmed
from kilim.model.fold import fold_record
from kilim.model.snapshot import decode_records
from kilim.model.state import Change, State
from kilim.v1.events_pb2 import Event

SEARCH_EVENTS = 4096


class Moment(NamedTuple):
    """A state (its seq is in it) and the chain digest of that seq."""

    state: State
    chain: bytes


class Step(NamedTuple):
    """One event folded: its number, what it was, what it changed in the state, the chain digest after it."""

    seq: int
    event: Event
    changes: list[Change]
    chain: bytes


def state_at(source: HistorySource, seq: int | None = None) -> State:
    """The state as of event `seq`, None: as of the last one."""
    return moment_at(source, seq).state


def changes(source: HistorySource, state: State, to_seq: int) -> Iterator[tuple[int, Event, list[Change]]]:
    """Folds `state` on, in place, up to `to_seq`; gives each event as soon as the state contains it."""
    for seq, event, changed, _ in steps(source, Moment(state, b""), to_seq):
        yield seq, event, changed


def moment_at(source: HistorySource, seq: int | None = None) -> Moment:
    span = source.span()
    wanted = span.last_seq if seq is None else seq
    if wanted > span.last_seq:
        raise Failure(f"event {wanted} has not happened: the log ends at event {span.last_seq}")
    below = wanted
    while True:
        try:
            base = source.base(below)
            return _folded_on(source, base, wanted)
        except SnapshotBroken as error:
            click.echo(f"warning: {error}; going on without it", err=True)
            below = error.seq - 1


def earliest_moment(source: HistorySource, up_to: int) -> Moment:
    """Where following all that is held begins: the empty state, or the snapshot that the first event held goes on from,
    else the oldest one after it. Nothing after `up_to`."""
    first = source.span().first_seq
    if first == 1:
        return Moment(State(), CHAIN_START)
    for seq in sorted(source.snapshot_seqs()):
        if first - 1 <= seq <= up_to:
            with contextlib.suppress(SnapshotBroken):
                base = source.snapshot(seq)
                if base is not None:
                    return loaded(base)
    return moment_at(source, up_to)


def steps(source: HistorySource, moment: Moment, to_seq: int, *, progress: bool = True) -> Iterator[Step]:
    """Folds the moment's state on, in place. Its chain must be that of the log, unless it is empty: not known.
    `progress` is not for those who print as they go."""
    state, chain = moment
    if state.seq >= to_seq:
        return
    cursor = Cursor(state.seq + 1, chain or None)
    commits = source.commits(state.seq + 1, to_seq)
    for commit in counted(commits, state.seq, to_seq) if progress else commits:
        entered = commit.chain_before
        cursor.advance(commit)
        for seq, record in enumerate(commit.records, commit.first_seq):
            entered = chain_next(entered, record)
            if state.seq < seq <= to_seq:
                yield Step(seq, event_of(record), fold_record(state, seq, record), entered)
    if state.seq < to_seq:
        raise LogBroken(state.seq + 1, f"missing, though event {to_seq} was asked for")


def event_of(record: bytes) -> Event:
    """Without a body for what is none: it folds to nothing (I1)."""
    try:
        return Event.FromString(record)
    except DecodeError:
        return Event()


def _folded_on(source: HistorySource, base: Base | None, to_seq: int) -> Moment:
    moment = Moment(State(), CHAIN_START) if base is None else loaded(base)
    first = source.span().first_seq
    if moment.state.seq < min(first - 1, to_seq):
        raise Trimmed(first)
    state, chain = moment
    try:
        for step in steps(source, moment, to_seq):
            chain = step.chain
    except LogBroken as error:
        if base is not None and state.seq == base.seq:
            raise SnapshotBroken(base.seq, f"the log does not go on from it: {error.reason}") from error
        raise
    return Moment(state, chain)


def loaded(base: Base) -> Moment:
    """Raises SnapshotBroken unless its records give its digest."""
    state = State()
    try:
        state.load(decode_records(base.records), base.seq)
    except (DecodeError, UnicodeDecodeError) as error:
        raise SnapshotBroken(base.seq, f"it holds what is no record: {error}") from error
    if state.digest != base.state_digest:
        raise SnapshotBroken(base.seq, f"its entries give {state.digest.hex()}, it claims {base.state_digest.hex()}")
    return Moment(state, base.chain)


def seq_at(source: HistorySource, text: str, option: str) -> int:
    """`123`, or a time in RFC 3339: the last event not after it, to the millisecond. Errors name the option."""
    span = source.span()
    if text.isascii() and text.isdecimal():
        check_event(int(text), option)
        if int(text) > span.last_seq:
            raise not_yet(int(text), span.last_seq, option)
        return int(text)
    try:
        until = parse_milliseconds(text)
    except ValueError:
        raise bad_moment(text, option) from None
    seq = last_until(source, until)
    if not seq:
        which = "the first event" if seq == 0 else f"every event that is held: the first is event {span.first_seq}"
        raise Failure(f"{option}: {text} is before {which}")
    return seq


def check_event(seq: int, option: str) -> None:
    if seq < 1:
        raise BadUsage(f"{option}: must be at least 1, the first event")


def not_yet(seq: int, head: int, option: str) -> Failure:
    return Failure(f"{option}: event {seq} has not happened: the log ends at event {head}")


def bad_moment(text: str, option: str) -> BadUsage:
    return BadUsage(f'{option}: "{text}" must be an event\'s number or a time such as 2026-11-22T14:03:00Z')


def last_until(source: HistorySource, limit_ms: int) -> int | None:
    """The last event with a time of at most `limit_ms`, 0 where the log has none, None where it would be trimmed.

    Clocks of replicas differ, so that times may go back; so every event from the end is looked at, not some."""
    span = source.span()
    high, width = span.last_seq, SEARCH_EVENTS
    while high >= span.first_seq:
        low = max(high - width + 1, span.first_seq)
        found = None
        for commit in counted(source.commits(low, high), low - 1, high):
            for seq, record in enumerate(commit.records, commit.first_seq):
                if low <= seq <= high and milliseconds(event_of(record).time_ns) <= limit_ms:
                    found = seq
        if found is not None:
            return found
        high, width = low - 1, width * 4
    return 0 if span.first_seq == 1 else None
