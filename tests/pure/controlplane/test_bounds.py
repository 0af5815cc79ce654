"""The bound of a node's policy rows is never too low, counting agrees with the definition, undoing leaves no trace."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kilim.controlplane.decide.limits import Limits
from kilim.controlplane.decide.view import Defaults, View
from kilim.model.desired import desired_tables
from kilim.model.resolve import resolve_rows
from kilim.model.state import State
from kilim.v1 import events_pb2 as pb
from tests.pure.controlplane.test_row_counts import facts_that_count
from tests.pure.model.histories import NODES, histories


def exact(state: State, node: str) -> tuple[int, int]:
    """Rows of `policy`, rows of `subjects`."""
    facts = facts_that_count(state)
    subjects = desired_tables(state, node).subjects
    return sum(len(resolve_rows(facts, subject)[1]) for subject in subjects), len(subjects)


@settings(max_examples=150, deadline=None)
@given(histories, st.integers(0, 40))
def test_bounds(history: list[pb.Event], limit: int) -> None:
    view = View(State(), Defaults(limits=Limits(policy=limit)))
    for seq, event in enumerate(history, 1):
        before = view.bounds.look_ups()
        view.undo(view.try_event(event))
        assert view.bounds.look_ups() == before
        view.bounds.touched.clear()
        view.fold(seq, event.SerializeToString())
        for node in NODES:
            rows, subjects = exact(view.state, node)
            assert view.bounds.rows_on(node) >= rows
            assert view.bounds.subjects_on(node) == subjects
            over = view.bounds.count_over(node, limit)
            assert (over > limit and over <= rows) if rows > limit else over == 0
    assert View(view.state, view.defaults).bounds.look_ups() == view.bounds.look_ups()


@settings(max_examples=100, deadline=None)
@given(histories)
def test_undone_and_done_again(history: list[pb.Event]) -> None:
    view = View(State(), Defaults())
    changes = [change for event in history for change in view.try_event(event)]
    then, digest = view.bounds.look_ups(), view.state.digest
    view.undo(changes)
    assert view.bounds.look_ups() == View(State(), Defaults()).bounds.look_ups()
    view.redo(changes)
    assert (view.bounds.look_ups(), view.state.digest) == (then, digest)
