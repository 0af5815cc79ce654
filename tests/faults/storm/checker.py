"""Are the notes of everybody who took part possible, given the log? PURE. Every answer is a list of what is not.

What must hold, in the numbers that the findings carry:
 1. The log is dense from 1 and its chain is whole.
 2. Acknowledged as a change: exactly one event. As no change, refused, or surely not done: none. Unknown: at most one.
    No event without a command.
 3. An answer's seq includes its event, and no answer is older than what anybody knew when it was asked for.
 4. An event comes after everything that anybody knew when it was asked for (linearizable writes).
 5. What an answer says of the object was so: of a change just before it, of "nothing to do" at a moment of the call.
 6. Lists are those of their seq.
 7. A follower's session is dense, without repeats, with the log's chain.
 8. At a seq there is one chain, one state digest, and per node one table digest: those of an offline replay.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from kilim.kvstore.commit import CHAIN_START, Commit, verify_commit
from kilim.kvstore.errors import LogBroken
from tests.faults.storm.record import (
    NOT_DONE,
    OK,
    REFUSED,
    UNKNOWN,
    Logged,
    Operation,
    Reading,
    Record,
    Sample,
    Sighting,
)
from tests.faults.storm.replay import Effect, Replay, replay_log

CHANGES = {"created": True, "configured": True, "set": True, "added": True, "deleted": False}
NO_CHANGE = {"unchanged": True, "not found": False}
HELD = "held"  # the answer does not say whether anything changed: it is so now


@dataclass(slots=True)
class History:
    """All that was noted in one run."""

    log: Sequence[Commit]
    actors: str  # how the actors of commands begin, so that other events are left alone
    operations: list[Operation] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def add(self, record: Record) -> None:
        match record:
            case Operation():
                self.operations.append(record)
            case Reading():
                self.readings.append(record)
            case Sighting():
                self.sightings.append(record)
            case Sample():
                self.samples.append(record)

    def records(self) -> Iterator[Record]:
        yield from (Logged(commit.encoded) for commit in self.log)
        yield from self.operations
        yield from self.readings
        yield from self.sightings
        yield from self.samples


def find_wrongs(history: History) -> list[str]:
    """Empty where everything fits."""
    if broken := list(_log_wrongs(history.log)):
        return broken
    tables = {(sample.node, sample.seq) for sample in history.samples if sample.node}
    names = {(reading.kind, reading.seq) for reading in history.readings}
    replay = replay_log(history.log, tables, names)
    known = _Known(history, replay)
    return [
        *_count_wrongs(history, replay),
        *(wrong for operation in history.operations for wrong in _operation_wrongs(operation, replay, known)),
        *_answer_wrongs(history, replay, known),
        *_reading_wrongs(history.readings, replay),
        *_follower_wrongs(history.sightings, replay),
        *_sample_wrongs(history.samples, replay),
    ]


class _Known:
    """The newest seq that anybody had seen before a moment."""

    def __init__(self, history: History, replay: Replay) -> None:
        seen = [(each.answered_ns, each.seq) for each in history.readings]
        seen += [(each.at_ns, each.last_seq) for each in history.sightings]
        seen += [(each.at_ns, each.seq) for each in history.samples]
        for operation in history.operations:
            if operation.outcome == OK:
                effects = replay.by_actor.get(operation.actor, [])
                seen.append((operation.answered_ns, max([operation.seq, *(effect.seq for effect in effects)])))
        seen.sort()
        self._times = [at_ns for at_ns, _ in seen]
        self._newest = list(accumulate((seq for _, seq in seen), max))

    def before(self, at_ns: int) -> int:
        place = bisect_left(self._times, at_ns)
        return self._newest[place - 1] if place else 0


def _log_wrongs(log: Sequence[Commit]) -> Iterator[str]:
    seq, chain = 1, CHAIN_START
    for commit in log:
        try:
            verify_commit(commit, seq, chain)
        except LogBroken as error:
            yield f"1: the log: {error}"
            return
        seq, chain = commit.last_seq + 1, commit.chain_after


def _count_wrongs(history: History, replay: Replay) -> Iterator[str]:
    asked = {operation.actor for operation in history.operations}
    for actor, effects in replay.by_actor.items():
        if actor.startswith(history.actors) and actor not in asked:
            yield f"2: nobody asked for the events of {actor} at {[effect.seq for effect in effects]}"


def _operation_wrongs(operation: Operation, replay: Replay, known: _Known) -> Iterator[str]:
    effects = replay.by_actor.get(operation.actor, [])
    least, most = _expected_events(operation)
    if not least <= len(effects) <= most:
        yield f"2: {operation} left the events {[effect.seq for effect in effects]}"
    floor = known.before(operation.asked_ns)
    for effect in effects:
        if effect.seq <= floor:
            yield f"4: {operation} is at {effect.seq}, {floor} was known when it was asked for"
        if operation.outcome == OK and 0 < operation.seq < effect.seq:
            yield f"3: {operation} was answered before its event at {effect.seq}"
        if effect.key != operation.key:
            yield f"2: {operation} changed {effect.key} at {effect.seq}"
    if operation.outcome == OK and 0 < operation.seq < floor:
        yield f"3: {operation} has an answer older than {floor}, which was known when it was asked for"
    if operation.seq > replay.last_seq:
        yield f"3: {operation} has a seq beyond the log, which ends at {replay.last_seq}"


def _expected_events(operation: Operation) -> tuple[int, int]:
    match operation.outcome:
        case "ok":
            return (1, 1) if operation.action in CHANGES else (0, 1 if operation.action == HELD else 0)
        case "unknown":
            return 0, 1
        case _:
            assert operation.outcome in (REFUSED, NOT_DONE, UNKNOWN)
            return 0, 0


def _answer_wrongs(history: History, replay: Replay, known: _Known) -> Iterator[str]:
    bodies = {operation.actor: operation.body for operation in history.operations}
    for operation in history.operations:
        if operation.outcome != OK:
            continue
        effects = replay.by_actor.get(operation.actor, [])
        if operation.action in CHANGES or (operation.action == HELD and effects):
            for effect in effects[:1]:
                yield from _change_wrongs(operation, effect, replay, bodies)
        elif not _was_so(operation, replay, bodies, known.before(operation.asked_ns)):
            yield f"5: {operation}: at no moment of the call was it so"


def _change_wrongs(operation: Operation, effect: Effect, replay: Replay, bodies: dict[str, str]) -> Iterator[str]:
    before = replay.at(operation.key, effect.seq - 1)
    there = before is not None and before.there
    if effect.there != CHANGES.get(operation.action, True):
        yield f"5: {operation}: its event at {effect.seq} is of the other kind"
    if operation.action in ("configured", "deleted") and not there:
        yield f"5: {operation}: nothing was there before {effect.seq}"
    if operation.action == "created" and there:
        yield f"5: {operation}: it was there before {effect.seq}"
    if operation.action == "configured" and before is not None and bodies.get(before.actor) == operation.body:
        yield f"5: {operation}: it was so before {effect.seq} already"


def _was_so(operation: Operation, replay: Replay, bodies: dict[str, str], floor: int) -> bool:
    """At `floor` or at a later seq up to the answer's."""
    last = operation.seq or replay.last_seq
    moments = [replay.at(operation.key, floor), *replay.between(operation.key, floor, last)]
    if not NO_CHANGE.get(operation.action, True):
        return any(effect is None or not effect.there for effect in moments)
    return any(effect is not None and effect.there and bodies.get(effect.actor) == operation.body for effect in moments)


def _reading_wrongs(readings: Sequence[Reading], replay: Replay) -> Iterator[str]:
    for reading in readings:
        there = replay.names.get((reading.kind, reading.seq), frozenset())
        if reading.seq and there != set(reading.names):
            lost, extra = sorted(there - set(reading.names)), sorted(set(reading.names) - there)
            yield f"6: {reading.via} listed {reading.kind} at {reading.seq}: without {lost}, with {extra}"


def _follower_wrongs(sightings: Sequence[Sighting], replay: Replay) -> Iterator[str]:
    last: dict[tuple[str, int], Sighting] = {}
    for seen in sightings:
        before = last.get((seen.follower, seen.session))
        if before is not None and not seen.snapshot and seen.first_seq != before.last_seq + 1:
            yield f"7: {seen.follower} got {seen.first_seq} after {before.last_seq} in session {seen.session}"
        if seen.last_seq > replay.last_seq:
            yield f"7: {seen.follower} got {seen.last_seq}, the log ends at {replay.last_seq}"
        elif seen.chain_after != replay.chains[seen.last_seq]:
            yield f"7: {seen.follower} got another chain at {seen.last_seq}"
        elif not seen.snapshot and seen.chain_before != replay.chains[seen.first_seq - 1]:
            yield f"7: {seen.follower} got another chain before {seen.first_seq}"
        last[seen.follower, seen.session] = seen


def _sample_wrongs(samples: Sequence[Sample], replay: Replay) -> Iterator[str]:
    for sample in samples:
        where = f"8: {sample.source} at {sample.seq}"
        yield from (f"{where}: {alarm}" for alarm in sample.alarms)
        if sample.seq > replay.last_seq:
            yield f"{where}: the log ends at {replay.last_seq}"
            continue
        if sample.chain and sample.chain != replay.chains[sample.seq]:
            yield f"{where}: another chain than the log's"
        if sample.state_digest != replay.state_digests[sample.seq]:
            yield f"{where}: another state digest than a replay's"
        if sample.node and sample.seq and sample.table_digest != replay.table_digests[sample.node, sample.seq]:
            yield f"{where}: another table digest than a replay's"
