"""The outcome of a large command, found out when its phases were, kept for when it is decided in earnest. PURE.

A command that moves thousands of endpoints is looked at before each of its phases and once more by the writer. Nothing
of it changes as long as nothing happens, or exactly what its phases bring: those events are then no longer to come.

Easy to get wrong: that exactly they have happened is known by count. One event changes one entry at most; so where as
many events have happened as a phase has entries, all of which were other ones before, and now all are as the phase
wants them, then no other event has.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kilim.controlplane.decide.command import Command
from kilim.controlplane.decide.decided import Decided
from kilim.model.fold import entry_of
from kilim.model.state import Key, State
from kilim.v1 import events_pb2 as pb

LARGE = 64  # events; of what is smaller a decision is soon made again

_Entries = dict[tuple[str, Key], bytes | None]


@dataclass(slots=True)
class _Told:
    command: Command
    seq: int  # of the state that it was decided on
    outcome: Decided


@dataclass(slots=True)
class _Phase:
    entries: _Entries
    told: _Told  # what holds after it


@dataclass(slots=True)
class Foretold:
    """One command at most."""

    told: _Told | None = None
    _before: _Told | None = None  # of the phase that comes before it
    _next: _Phase | None = None

    def outcome(self, state: State, command: Command) -> Decided | None:
        """None: it must be decided."""
        self._advance(state)
        for each in (self.told, self._before):
            if each is not None and each.command is command and each.seq == state.seq:
                return each.outcome
        return None

    def tell(self, state: State, command: Command, outcome: Decided) -> None:
        if len(outcome.events) >= LARGE:
            self.told, self._before, self._next = _Told(command, state.seq, outcome), None, None

    def tell_phase(self, state: State, before: Command, phase: Decided, command: Command, after: Decided) -> None:
        """`before` brings all events of `phase`, and then `after` is what remains of `command`."""
        if self.told is None or self.told.command is not command or self.told.seq != state.seq:
            return
        self._before = _Told(before, state.seq, phase)
        entries = _entries(state, phase.events)
        self._next = None
        if entries is not None:
            self._next = _Phase(entries, _Told(command, state.seq + len(entries), after))

    def forget_before(self, seq: int) -> None:
        """What was told of states that are past is of no use."""
        last = max((each.seq for each in (self.told, self._next and self._next.told) if each), default=seq)
        if last < seq:
            self.told = self._before = self._next = None

    def _advance(self, state: State) -> None:
        if self._next is None or self._next.told.seq != state.seq:
            return
        phase, self._next, self._before = self._next, None, None
        data = state.data()
        as_wanted = all(data[table].get(key) == value for (table, key), value in phase.entries.items())
        self.told = phase.told if as_wanted else None


def _entries(state: State, events: Sequence[pb.Event]) -> _Entries | None:
    """None where not every event changes another entry."""
    data = state.data()
    entries: _Entries = {}
    for event in events:
        entry = entry_of(event)
        if entry is None or data[entry[0]].get(entry[1]) == entry[2] or entry[:2] in entries:
            return None
        entries[entry[:2]] = entry[2]
    return entries
