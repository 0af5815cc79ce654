"""History from its end to its beginning, a stretch at a time: from one snapshot to the next, the newest stretch first.

Easy to get wrong: what is older than the oldest snapshot or event that is held is not known, and is said to be so; a
snapshot that cannot be read only makes the stretch that begins before it longer.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import click
from google.protobuf.message import DecodeError

from kilim.cli.failure import Failure
from kilim.cli.history.progress import counted
from kilim.cli.history.rebuild import event_of
from kilim.cli.history.source import HistorySource
from kilim.kvstore.commit import CHAIN_START
from kilim.kvstore.cursor import Cursor
from kilim.kvstore.errors import LogBroken, SnapshotBroken, Trimmed
from kilim.model.digest import digest_of
from kilim.model.explain import Explanation
from kilim.model.flips import Flip, Parties, Past, last_flip
from kilim.model.focus import Focus, Focused, Since, Thing, Watch, focus_of, things_of
from kilim.model.fold import EndpointNote, note_of
from kilim.model.snapshot import decode_records, hash_records, without_endpoints
from kilim.model.state import State, key_from_bytes
from kilim.v1.events_pb2 import Event

WIDER = 4  # each stretch and those before it together, to those before it
NOTED_EVENTS = 500_000  # some 400 bytes each; a longer stretch is read twice

# An event that was seen, as bytes, and by what to tell that it does not matter.
Noted = tuple[int, bytes, EndpointNote | None]


@dataclass(frozen=True, slots=True)
class Stretch:
    """The state at `seq`, as records, and the events after it up to `to_seq`. `held`: those of the events that matter,
    where somebody has picked them already."""

    source: HistorySource
    seq: int
    to_seq: int
    encoded: tuple[bytes, ...]
    state_digest: bytes
    chain: bytes
    held: tuple[tuple[int, Event], ...] | None = None

    def records(self, marks: list[bytes]) -> Iterator[tuple[str, bytes, bytes]]:
        """Of endpoints only those that bear one of the marks."""
        return decode_records(without_endpoints(self.encoded, marks))

    def show(self, past: Past) -> list[Noted] | None:
        """Everything that tells what the ends were. The events, for `events_of`, where they are not too many."""
        noted: list[Noted] | None = None if self.held is not None else []
        self._show_records(past)
        for seq, record, event in self._read() if self.held is None else ((seq, b"", each) for seq, each in self.held):
            past.see_event(event)
            if noted is not None:
                noted.append((seq, record, note_of(event)))
                noted = noted if len(noted) <= NOTED_EVENTS else None
        self._show_records(past)  # who else had the addresses that the ends turned out to have
        return noted

    def events_of(self, focused: Focused, noted: list[Noted] | None) -> Iterator[tuple[int, Event]]:
        """Those that may change what `focused` keeps, which the caller has follow each before he takes the next."""
        if noted is None:
            yield from self.events()
            return
        for seq, record, note in noted:
            if note is None or focused.may_keep(note):
                yield seq, event_of(record)
        if self.seq < self.to_seq and (not noted or noted[-1][0] < self.to_seq):
            last = noted[-1][0] if noted else self.seq
            raise LogBroken(last + 1, f"missing, though event {self.to_seq} was asked for")
        focused.state.seq = self.to_seq

    def _show_records(self, past: Past) -> None:
        for table, key, value in self.records(past.marks()):
            past.see(table, key_from_bytes(table, key), value)

    def check_state(self) -> None:
        """Raises SnapshotBroken where the records are not those of the digest."""
        try:
            found = digest_of(hash_records(self.encoded))
        except (DecodeError, UnicodeDecodeError) as error:
            raise SnapshotBroken(self.seq, f"it holds what is no record: {error}") from error
        if found != self.state_digest:
            claimed = self.state_digest.hex()
            raise SnapshotBroken(self.seq, f"its entries give {found.hex()}, it claims {claimed}")

    def events(self) -> Iterator[tuple[int, Event]]:
        if self.held is not None:
            yield from self.held
        else:
            yield from ((seq, event) for seq, _, event in self._read())

    def _read(self) -> Iterator[tuple[int, bytes, Event]]:
        if self.seq >= self.to_seq:
            return
        commits = self.source.commits(self.seq + 1, self.to_seq)
        for commit in counted(commits, self.seq, self.to_seq):
            for seq, record in enumerate(commit.records, commit.first_seq):
                if self.seq < seq <= self.to_seq:
                    yield seq, record, event_of(record)

    def check_joint(self) -> None:
        """Raises SnapshotBroken where the events do not go on from the state."""
        if not 0 < self.seq < self.to_seq:
            return
        try:
            for commit in self.source.commits(self.seq + 1, self.seq + 1):
                Cursor(self.seq + 1, self.chain).advance(commit)
        except LogBroken as error:
            raise SnapshotBroken(self.seq, f"the log does not go on from it: {error.reason}") from error


def stretches(source: HistorySource, at_seq: int, newest: Stretch | None = None) -> Iterator[Stretch]:
    """Up to event `at_seq`, as far back as can be replayed, beginning with `newest` where that is known. Each is some
    times as long as all before it, where snapshots allow: checking one costs as much as 100,000 events."""
    to_seq, stretch = at_seq, newest or _stretch(source, at_seq, at_seq)
    while stretch is not None:
        yield stretch
        to_seq = stretch.seq
        if not to_seq:
            return
        wide = max(at_seq - WIDER * (at_seq - to_seq), 0)
        stretch = _stretch(source, wide, to_seq) if wide < to_seq - 1 else None
        stretch = stretch or _stretch(source, to_seq - 1, to_seq)


def _stretch(source: HistorySource, below: int, to_seq: int, *, check: bool = True) -> Stretch | None:
    """From the newest good snapshot of event `below` or before; None: the events after it are no longer held. Without
    `check` it is for the caller to find out whether it is good."""
    while True:
        try:
            base = source.base(below) if below > 0 else None
            if base is None:
                made = Stretch(source, 0, to_seq, (), State().digest, CHAIN_START)
            else:
                made = Stretch(source, base.seq, to_seq, tuple(base.records), base.state_digest, base.chain)
                if check:
                    made.check_state()
                    made.check_joint()
        except SnapshotBroken as error:
            click.echo(f"warning: {error}; going on without it", err=True)
            below = min(below, error.seq) - 1
            continue
        return made if made.seq >= min(source.span().first_seq - 1, to_seq) else None


def focused_at(source: HistorySource, at_seq: int, parties: Parties) -> tuple[Focused, Stretch]:
    """The part of the state at `at_seq` that the verdict depends on, and the stretch that it was folded from with no
    more than that. What does not fit together is passed over or raised as by `moment_at`."""
    span = source.span()
    if at_seq > span.last_seq:
        raise Failure(f"event {at_seq} has not happened: the log ends at event {span.last_seq}")
    below = at_seq
    while (stretch := _stretch(source, below, at_seq, check=False)) is not None:
        try:
            return _focused(stretch, parties)
        except SnapshotBroken as error:
            click.echo(f"warning: {error}; going on without it", err=True)
            below = error.seq - 1
    raise Trimmed(span.first_seq)


def _focused(stretch: Stretch, parties: Parties) -> tuple[Focused, Stretch]:
    past = Past(parties)
    stretch.check_state()
    stretch.check_joint()
    noted = stretch.show(past)
    focus = past.focus()
    focused = Focused(focus)
    kept = tuple(without_endpoints(stretch.encoded, focus.marks()))
    focused.load(decode_records(kept), stretch.seq)
    events = stretch.events_of(focused, noted)
    held = tuple((seq, event) for seq, event in events if focused.follow(seq, event) is not None)
    if focused.state.seq < stretch.to_seq:
        raise LogBroken(focused.state.seq + 1, f"missing, though event {stretch.to_seq} was asked for")
    focused.make_tables(past.nodes())
    return focused, replace(stretch, encoded=kept, held=held)


def since_when(
    source: HistorySource, at_seq: int, explanation: Explanation, newest: Stretch | None = None
) -> dict[Thing, Since]:
    """For each entry and policy of an explanation the event since which it is what it is at `at_seq`."""
    return things_since(source, at_seq, focus_of(explanation), things_of(explanation), newest)


def things_since(
    source: HistorySource, at_seq: int, focus: Focus, things: Iterable[Thing], newest: Stretch | None = None
) -> dict[Thing, Since]:
    """The same of any things; the focus keeps all that they depend on."""
    missing = list(things)
    found: dict[Thing, Since] = {}
    oldest = at_seq
    for stretch in stretches(source, at_seq, newest):
        watch = Watch(focus, missing)
        watch.begin(stretch.records(focus.marks()), stretch.seq)
        for seq, event in stretch.events():
            watch.follow(seq, event)
        found.update(watch.changed)
        missing = [thing for thing in missing if thing not in found]
        oldest = stretch.seq
        if not missing:
            break
    return {**found, **dict.fromkeys(missing, Since(oldest, None))}


def flip_before(
    source: HistorySource, at_seq: int, parties: Parties, newest: Stretch | None = None
) -> tuple[Flip | None, int]:
    """The event at which the verdict last changed, up to `at_seq`, and from which event on this is known."""
    oldest = at_seq
    for stretch in stretches(source, at_seq, newest):
        past = Past(parties)
        noted = stretch.show(past)
        focused = past.focused()
        focused.load(stretch.records(past.focus().marks()), stretch.seq)
        flip = last_flip(focused, stretch.events_of(focused, noted), parties)
        oldest = stretch.seq
        if flip is not None:
            return flip, oldest
    return None, oldest


def life_of(events: Iterable[tuple[int, Event]], key: str) -> Iterator[tuple[int, Event, bool]]:
    """When an endpoint came (True) and went, of all the events."""
    exists = False
    for seq, event in events:
        which = event.WhichOneof("body")
        if which in ("endpoint_added", "endpoint_updated"):
            endpoint = getattr(event, which).endpoint
            if f"{endpoint.namespace}/{endpoint.name}" == key and not exists:
                exists = True
                yield seq, event, True
        elif which == "endpoint_removed":
            removed = event.endpoint_removed
            if f"{removed.namespace}/{removed.name}" == key:
                exists = False
                yield seq, event, False
