"""The outcome of a large command, found out when its phases were, kept for when it is decided in earnest. PURE.

A command that moves thousands of endpoints is looked at before each of its phases and once more by the writer. Nothing
of it changes as long as nothing happens, or exactly what its phases bring: those events are then no longer to come.

Easy to get wrong: that exactly they have happened is known by count. One event changes one entry at most; so where as
many events have happened as a phase has entries, all of which were other ones before, and now all are as the phase
wants them, then no other event has.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


class Phase(NamedTuple):
    """`command` comes to `outcome`; `after` is then what remains of the large one, None where nobody will ask."""

    command: Command
    outcome: Decided
    after: Decided | None


@dataclass(slots=True)
class _Next:
    told: _Told
    after: _Told | None
    end_seq: int
    entries: _Entries


class Foretold:
    """One command at most."""

    def __init__(self) -> None:
        self.told: _Told | None = None
        self._phases: deque[_Next] = deque()  # that come before it
        self._last_seq = 0  # that anything is told of

    def outcome(self, state: State, command: Command) -> Decided | None:
        """None: it must be decided."""
        self._advance(state)
        for each in (self.told, self._phases[0].told if self._phases else None):
            if each is not None and each.seq == state.seq and each.command == command:
                return each.outcome
        return None

    def tell(self, state: State, command: Command, outcome: Decided) -> None:
        if len(outcome.events) >= LARGE:
            self._phases.clear()
            self.told, self._last_seq = _Told(command, state.seq, outcome), state.seq

    def tell_phases(self, state: State, command: Command, phases: Sequence[Phase]) -> None:
        """What comes before the command that is told, one after the other."""
        if self.told is None or self.told.seq != state.seq or self.told.command != command:
            return
        self._phases.clear()
        if _entries(state, [event for phase in phases for event in phase.outcome.events]) is None:
            phases = ()
        seq = state.seq
        for phase in phases:
            entries = _entries(state, phase.outcome.events) or {}
            end_seq = seq + len(entries)
            after = None if phase.after is None else _Told(command, end_seq, phase.after)
            self._phases.append(_Next(_Told(phase.command, seq, phase.outcome), after, end_seq, entries))
            seq = end_seq
        self._last_seq = seq

    def forget_before(self, seq: int) -> None:
        """What was told of states that are past is of no use."""
        if self._last_seq < seq and (self.told is not None or self._phases):
            self.told = None
            self._phases.clear()

    def _advance(self, state: State) -> None:
        data = state.data()
        while self._phases and self._phases[0].end_seq <= state.seq:
            phase = self._phases.popleft()
            self.told = phase.after
            if any(data[table].get(key) != value for (table, key), value in phase.entries.items()):
                self.told = None
                self._phases.clear()


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
