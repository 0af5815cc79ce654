"""History from its end to its beginning, a stretch at a time: from one snapshot to the next, the newest stretch first.

Easy to get wrong: what is older than the oldest snapshot or event that is held is not known, and is said to be so; a
snapshot that cannot be read only makes the stretch that begins before it longer.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import click

from kilim.cli.history.progress import counted
from kilim.cli.history.rebuild import event_of
from kilim.cli.history.source import HistorySource
from kilim.kvstore.errors import SnapshotBroken
from kilim.model.explain import Explanation
from kilim.model.flips import Flip, Parties, Past, entries_of, last_flip
from kilim.model.focus import Since, Thing, Watch, focus_of, things_of
from kilim.model.snapshot import decode_records
from kilim.model.state import key_from_bytes
from kilim.v1.events_pb2 import Event


@dataclass(frozen=True, slots=True)
class Stretch:
    """The state at `seq`, as records, and the events after it up to `to_seq`."""

    source: HistorySource
    seq: int
    to_seq: int
    encoded: tuple[bytes, ...]

    def records(self) -> Iterator[tuple[str, bytes, bytes]]:
        return decode_records(self.encoded)

    def events(self) -> Iterator[tuple[int, Event]]:
        if self.seq >= self.to_seq:
            return
        commits = self.source.commits(self.seq + 1, self.to_seq)
        for commit in counted(commits, self.seq, self.to_seq):
            for seq, record in enumerate(commit.records, commit.first_seq):
                if self.seq < seq <= self.to_seq:
                    yield seq, event_of(record)


def stretches(source: HistorySource, at_seq: int) -> Iterator[Stretch]:
    """Up to event `at_seq`, as far back as can be replayed. Each is as long as all before it, where snapshots allow:
    loading one costs as much as many events."""
    to_seq, stretch = at_seq, _stretch(source, at_seq, at_seq)
    while stretch is not None:
        yield stretch
        to_seq = stretch.seq
        if not to_seq:
            return
        wide = max(2 * to_seq - at_seq, 0)
        stretch = _stretch(source, wide, to_seq) if wide < to_seq - 1 else None
        stretch = stretch or _stretch(source, to_seq - 1, to_seq)


def _stretch(source: HistorySource, below: int, to_seq: int) -> Stretch | None:
    """From the newest good snapshot of event `below` or before; None: the events after it are no longer held."""
    while True:
        try:
            base = source.base(below) if below > 0 else None
            seq, records = (base.seq, tuple(base.records)) if base is not None else (0, ())
        except SnapshotBroken as error:
            click.echo(f"warning: {error}; going on without it", err=True)
            below = min(below, error.seq) - 1
            continue
        return Stretch(source, seq, to_seq, records) if seq >= source.span().first_seq - 1 else None


def since_when(source: HistorySource, at_seq: int, explanation: Explanation) -> dict[Thing, Since]:
    """For each entry and policy of an explanation the event since which it is what it is at `at_seq`."""
    missing, focus = things_of(explanation), focus_of(explanation)
    found: dict[Thing, Since] = {}
    oldest = at_seq
    for stretch in stretches(source, at_seq):
        watch = Watch(focus, missing)
        watch.begin(stretch.records(), stretch.seq)
        for seq, event in stretch.events():
            watch.follow(seq, event)
        found.update(watch.changed)
        missing = [thing for thing in missing if thing not in found]
        oldest = stretch.seq
        if not missing:
            break
    return {**found, **dict.fromkeys(missing, Since(oldest, None))}


def flip_before(source: HistorySource, at_seq: int, parties: Parties) -> tuple[Flip | None, int]:
    """The event at which the verdict last changed, up to `at_seq`, and from which event on this is known."""
    oldest = at_seq
    for stretch in stretches(source, at_seq):
        past = Past(parties)
        for table, key, value in stretch.records():
            past.see(table, key_from_bytes(table, key), value)
        for entry in entries_of(stretch.events()):
            past.see(*entry)
        focused = past.focused()
        focused.load(stretch.records(), stretch.seq)
        flip = last_flip(focused, stretch.events(), parties)
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
