"""`NodeTables` against its definition: equal to `desired_tables` after every event of any history, however split."""

from collections.abc import Iterable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilim.model.desired import desired_tables
from kilim.model.fold import fold_event
from kilim.model.node_tables import NodeTables
from kilim.model.state import Change, State
from kilim.model.tables import Tables, TablesDelta
from kilim.v1 import events_pb2 as pb
from tests.pure.model.histories import NODES, histories

many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def fold_all(state: State, history: Iterable[pb.Event]) -> list[Change]:
    return [change for event in history for change in fold_event(state, event)]


@many
@given(histories)
def test_equal_to_the_definition_after_every_event(history: list[pb.Event]) -> None:
    state = State()
    incremental = {name: NodeTables(name) for name in NODES[:2]}
    followed = {name: Tables() for name in NODES[:2]}
    for event in history:
        changes = fold_event(state, event)
        for name, node_tables in incremental.items():
            node_tables.update(state, changes).apply_to(followed[name])
            wanted = desired_tables(state, name)
            assert node_tables.tables == wanted
            assert node_tables.digest == wanted.digest()
            assert followed[name] == wanted


@many
@given(histories, st.lists(st.integers(1, 12), min_size=1, max_size=12))
def test_other_batches_give_the_same(history: list[pb.Event], sizes: list[int]) -> None:
    state, node_tables = State(), NodeTables(NODES[0])
    rest, turn = list(history), 0
    while rest:
        size = sizes[turn % len(sizes)]
        before = desired_tables(state, NODES[0])
        delta = node_tables.update(state, fold_all(state, rest[:size]))
        wanted = desired_tables(state, NODES[0])
        assert node_tables.tables == wanted
        assert delta == TablesDelta.between(before, wanted)
        rest, turn = rest[size:], turn + 1
    assert node_tables.digest == node_tables.tables.digest()


@many
@given(histories, histories)
def test_rebuild_goes_on_from_any_state(first: list[pb.Event], second: list[pb.Event]) -> None:
    state, node_tables = State(), NodeTables(NODES[0])
    fold_all(state, first)
    node_tables.rebuild(state)
    assert node_tables.tables == desired_tables(state, NODES[0])
    fold_all(state, second)
    before = node_tables.tables
    delta = node_tables.rebuild(state)
    wanted = desired_tables(state, NODES[0])
    assert node_tables.tables == wanted
    assert node_tables.digest == wanted.digest()
    assert delta == TablesDelta.between(before, wanted)
