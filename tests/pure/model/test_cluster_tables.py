"""`ClusterTables` against the definition: every node's digest equals that of `desired_tables`, after every event."""

from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilim.model.cluster_tables import ClusterTables
from kilim.model.desired import desired_tables
from kilim.model.facts import Facts
from kilim.model.fold import fold_event
from kilim.model.resolve import resolve_rows
from kilim.model.state import Change, State
from kilim.model.tables import PolicyRows
from kilim.v1 import events_pb2 as pb
from tests.pure.model.cluster import Cluster
from tests.pure.model.histories import BASE, NODES, histories

many = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
some = settings(many, max_examples=40)
STRANGER = "never heard of"


def assert_equal_to_the_definition(tables: ClusterTables, state: State) -> None:
    for node in (*NODES, STRANGER):
        assert tables.digest(node) == desired_tables(state, node).digest(), node


def fold_all(state: State, history: Iterable[pb.Event]) -> list[Change]:
    return [change for event in history for change in fold_event(state, event)]


@many
@given(histories)
def test_equal_to_the_definition_after_every_event(history: list[pb.Event]) -> None:
    state, tables = State(), ClusterTables()
    for event in history:
        tables.update(state, fold_event(state, event))
        assert_equal_to_the_definition(tables, state)


@some
@given(histories, st.lists(st.integers(1, 12), min_size=1, max_size=12))
def test_other_batches_give_the_same(history: list[pb.Event], sizes: list[int]) -> None:
    state, tables = State(), ClusterTables()
    rest, turn = list(history), 0
    while rest:
        size = sizes[turn % len(sizes)]
        tables.update(state, fold_all(state, rest[:size]))
        assert_equal_to_the_definition(tables, state)
        rest, turn = rest[size:], turn + 1


@some
@given(histories, histories)
def test_filled_from_any_state_it_goes_on(first: list[pb.Event], second: list[pb.Event]) -> None:
    state, tables = State(), ClusterTables()
    fold_all(state, first)
    for _ in tables.fill(state):
        pass
    assert_equal_to_the_definition(tables, state)
    tables.update(state, fold_all(state, second))
    assert_equal_to_the_definition(tables, state)


@some
@given(histories)
def test_what_changed_is_named(history: list[pb.Event]) -> None:
    """Own parts remembered from the names alone are those of the tables; nothing is left over when all is gone."""
    state, tables = State(), ClusterTables()
    remembered: dict[str, int] = {}
    for event in history:
        tables.update(state, fold_event(state, event))
        remembered |= {name: tables.own_part(name) for name in tables.take_changed()}
        assert all(remembered.get(name, 0) == tables.own_part(name) for name in NODES)
    gone = [
        state.put(table, key, None)
        for table in ("policy", "identity", "endpoint", "node")
        for key in list_of(state, table)
    ]
    tables.update(state, [change for change in gone if change is not None])
    assert (tables.far_part, tables.nodes()) == (0, [])


def list_of(state: State, table: str) -> list[str | int]:
    return list(state.data()[table])


def test_subjects_under_the_same_policies_are_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, tables = Cluster(), ClusterTables()
    resolved: list[int] = []

    def resolve_and_note(facts: Facts, subject: int) -> tuple[int, PolicyRows]:
        resolved.append(subject)
        return resolve_rows(facts, subject)

    def resolutions() -> int:
        resolved.clear()
        tables.update(cluster.state, cluster.changes)
        cluster.changes.clear()
        for node in ("n0", "n1", STRANGER):
            assert tables.digest(node) == desired_tables(cluster.state, node).digest()
        return len(resolved)

    monkeypatch.setattr("kilim.model.cluster_tables.resolve_rows", resolve_and_note)
    cluster.node("n0", "172.16.0.1")
    for number in range(20):
        cluster.pod("x", f"web{number}", f"n{number % 2}", f"10.0.1.{number}", {"app": "web", "own": str(number)})
    assert resolutions() == 1
    policy = {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [{"podSelector": {}}]}]}
    metadata = {"name": "p", "namespace": "x"}
    cluster.apply({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": policy})
    assert resolutions() == 1
    cluster.pod("x", "db", "n1", "10.0.2.1", {"app": "db"})
    assert resolutions() == 2  # the new identity itself; those that admit it
    cluster.pod("x", "db2", "n0", "10.0.2.2", {"app": "db"})
    assert resolutions() == 0


def test_the_empty_cluster_has_the_empty_digest() -> None:
    assert ClusterTables().digest("n1") == bytes(32) == desired_tables(State(), "n1").digest()
    assert len(BASE) > 0
