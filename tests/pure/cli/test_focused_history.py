"""The focused part of a state, read with or without snapshots, gives the verdict and the last flip of the whole."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilim.cli.history import backwards
from kilim.model.desired import desired_tables
from kilim.model.flips import Parties, outcome_of
from kilim.model.fold import fold_event
from kilim.model.state import State
from kilim.v1 import events_pb2 as pb
from tests.pure.cli.test_why import Snapshots
from tests.pure.model.histories import NODES, histories
from tests.pure.model.test_flips import by_definition, parties_of


@pytest.mark.parametrize("noted_events", [0, backwards.NOTED_EVENTS])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories, parties_of, st.sets(st.integers(1, 8)))
def test_focused_is_as_whole(noted_events: int, history: list[pb.Event], parties: Parties, cuts: set[int]) -> None:
    records = [event.SerializeToString() for event in history]
    last, at = len(records), tuple(3 * cut for cut in cuts if 3 * cut <= len(records))
    whole = State()
    for event in history:
        fold_event(whole, event)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(backwards, "NOTED_EVENTS", noted_events)
        source = Snapshots(records, at)
        focused, newest = backwards.focused_at(source, last, parties)
        flip, _ = backwards.flip_before(source, last, parties, newest)
    tables = {name: each.tables for name, each in focused.nodes.items()}
    expected = outcome_of(whole, {name: desired_tables(whole, name) for name in NODES}, parties)
    assert focused.state.seq == last
    assert outcome_of(focused.state, tables, parties) == expected
    wanted = by_definition(history, 0, parties)
    assert (flip and (flip.seq, flip.before, flip.after)) == wanted
