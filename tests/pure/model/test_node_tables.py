"""`NodeTables` against its definition: equal to `desired_tables` after every event of any history, however split."""

from collections.abc import Collection, Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilim.model.desired import desired_tables
from kilim.model.facts import Facts
from kilim.model.fold import fold_event
from kilim.model.identity import HOST, Identity
from kilim.model.node_tables import NodeTables
from kilim.model.nouns import NamedPort, identity_to_pb
from kilim.model.peer_rows import changed_rows
from kilim.model.resolve import resolve_rows
from kilim.model.rules import PolicyRules
from kilim.model.state import Change, State
from kilim.model.tables import PolicyRows, RowChanges, Tables, TablesDelta
from kilim.v1 import events_pb2 as pb
from tests.pure.model.cluster import Cluster
from tests.pure.model.histories import NODES, histories

many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def fold_all(state: State, history: Iterable[pb.Event]) -> list[Change]:
    return [change for event in history for change in fold_event(state, event)]


def whole(delta: TablesDelta, before: Tables) -> TablesDelta:
    """With all rows of each subject of which it names those that differ."""
    after = before.copy()
    delta.apply_to(after)
    for subject, changes in delta.rows.items():
        assert subject not in delta.policy
        held = before.policy.get(subject, {})
        assert changes and all(held.get(key) != value for key, value in changes.items())
    policy = delta.policy | {subject: after.policy.get(subject) for subject in delta.rows}
    return TablesDelta(delta.ipcache, delta.endpoints, delta.subjects, policy)


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
        assert whole(delta, before) == TablesDelta.between(before, wanted)
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


def http_policy(**spec: object) -> dict[str, object]:
    spec["podSelector"] = {"matchLabels": {"app": "web"}}
    metadata = {"name": "p", "namespace": "x"}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize(
    "spec",
    [
        {"ingress": [{"ports": [{"port": "http"}]}]},
        {"egress": [{"ports": [{"port": "http"}]}]},
        {"egress": [{"to": [{"podSelector": {}}], "ports": [{"port": "http"}]}]},
    ],
)
def test_named_ports_that_change(spec: dict[str, object]) -> None:
    cluster, node_tables = Cluster(), NodeTables("n1")

    def rows_on_port(port: int) -> int:
        node_tables.update(cluster.state, cluster.changes)
        cluster.changes.clear()
        assert node_tables.tables == desired_tables(cluster.state, "n1")
        return sum(key.port == port for rows in node_tables.tables.policy.values() for key in rows)

    cluster.pod("x", "web", "n1", "10.0.1.1", {"app": "web"})
    cluster.apply(http_policy(**spec))
    assert rows_on_port(80) == 0
    cluster.pod("x", "web", "n1", "10.0.1.1", {"app": "web"}, (NamedPort("http", 80, 6),))
    assert rows_on_port(80) == 1
    cluster.pod("x", "web2", "n2", "10.0.2.1", {"app": "web"}, (NamedPort("http", 80, 6), NamedPort("http", 81, 6)))
    assert (rows_on_port(80), rows_on_port(81)) == (1, 1)
    cluster.pod("x", "web", "n1", "10.0.1.1", {"app": "web"})
    assert (rows_on_port(80), rows_on_port(81)) == (1, 1)
    cluster.happen(endpoint_removed=pb.EndpointRemoved(namespace="x", name="web2"))
    assert (rows_on_port(80), rows_on_port(81)) == (0, 0)
    for ports in ((NamedPort("http", 80, 6),), ()):
        cluster.pod("x", "web", "n1", "10.0.1.1", {"app": "web"}, ports)
        assert rows_on_port(80) == len(ports)
        cluster.happen(policy_removed=pb.PolicyRemoved(kind="NetworkPolicy", namespace="x", name="p"))
        assert rows_on_port(80) == 0
        cluster.pod("x", "web", "n1", "10.0.1.1", {"app": "web"})
        assert rows_on_port(80) == 0
        cluster.apply(http_policy(**spec))
        assert rows_on_port(80) == 0


def test_only_affected_rows_are_resolved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a subject for a policy; of one identity that comes or goes the rows of that peer alone."""
    cluster, node_tables = Cluster(), NodeTables("n1")
    resolved: list[int] = []
    peers: list[tuple[int, int]] = []

    def resolve_and_note(facts: Facts, subject: int) -> tuple[int, PolicyRows]:
        resolved.append(subject)
        return resolve_rows(facts, subject)

    def change_and_note(
        facts: Facts, subject: int, peer: int, held: PolicyRows, among: Collection[PolicyRules] | None
    ) -> RowChanges:
        peers.append((subject, peer))
        return changed_rows(facts, subject, peer, held, among)

    def resolved_now() -> set[int]:
        resolved.clear()
        peers.clear()
        node_tables.update(cluster.state, cluster.changes)
        cluster.changes.clear()
        return set(resolved)

    monkeypatch.setattr("kilim.model.node_tables.resolve_rows", resolve_and_note)
    monkeypatch.setattr("kilim.model.node_tables.changed_rows", change_and_note)
    web = cluster.pod("x", "web", "n1", "10.0.1.1", {"app": "web"})
    other = cluster.pod("x", "other", "n1", "10.0.1.2", {"app": "other"})
    assert resolved_now() == {web, other}
    cluster.apply(http_policy(ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "db"}}}]}]))
    assert resolved_now() == {web}
    db = cluster.pod("x", "db", "n2", "10.0.2.1", {"app": "db"}, (NamedPort("http", 80, 6),))
    assert (resolved_now(), peers) == (set(), [(web, db)])
    cluster.pod("x", "db2", "n2", "10.0.2.2", {"app": "db"})
    cluster.pod("y", "db", "n2", "10.0.2.3", {"app": "db"})
    cluster.node("n2", "172.16.0.2")
    assert (resolved_now(), peers) == (set(), [])


def test_very_many_identities_at_once_and_one_by_one_end_in_the_same_rows() -> None:
    cluster, at_once, one_by_one = Cluster(), NodeTables("n1"), NodeTables("n1")
    web = cluster.pod("x", "web", "n1", "10.0.1.1", {"app": "web"})
    cluster.apply(http_policy(ingress=[{"from": [{"podSelector": {}}], "ports": [{"port": 80}]}]))
    at_once.update(cluster.state, cluster.changes)
    start = len(cluster.changes)
    for number in range(100):
        identity = Identity(1000 + number, (f"k8s:app=a{number}", *cluster.state.identities[web].labels[1:]))
        cluster.happen(identity_allocated=pb.IdentityAllocated(identity=identity_to_pb(identity)))
    at_once.update(cluster.state, cluster.changes[start:])
    fresh = len(cluster.changes)
    one_by_one.update(cluster.state, cluster.changes)
    for number in range(100):
        cluster.happen(identity_released=pb.IdentityReleased(id=1000 + number))
        one_by_one.update(cluster.state, cluster.changes[fresh + number :])
        assert len(one_by_one.tables.policy[web]) == len(at_once.tables.policy[web]) - number - 1
    at_once.update(cluster.state, cluster.changes[fresh:])
    assert at_once.tables == one_by_one.tables == desired_tables(cluster.state, "n1")
    assert at_once.digest == one_by_one.digest == at_once.tables.digest()


def test_identity_0_is_never_a_peer() -> None:
    cluster, node_tables = Cluster(), NodeTables("n1")
    web = cluster.pod("x", "web", "n1", "10.0.1.1", {"app": "web"}, (NamedPort("http", 80, 6),))
    nobody = Identity(0, cluster.state.identities[web].labels)
    for ports in ([], [{"port": "http"}]):
        cluster.apply(http_policy(egress=[{"to": [{"podSelector": {}}], "ports": ports}], policyTypes=["Egress"]))
        cluster.happen(identity_allocated=pb.IdentityAllocated(identity=identity_to_pb(nobody)))
        cluster.pod("x", "web2", "n1", "10.0.1.2", {"app": "web"}, (NamedPort("http", 80, 6),))
        node_tables.update(cluster.state, cluster.changes)
        cluster.changes.clear()
        assert node_tables.tables == desired_tables(cluster.state, "n1")
        assert {key.peer for rows in node_tables.tables.policy.values() for key in rows} == {HOST, web}
        cluster.happen(identity_released=pb.IdentityReleased(id=0))


def test_a_policy_replaced_in_place_keeps_its_peers() -> None:
    cluster, node_tables = Cluster(), NodeTables("n1")
    cluster.pod("x", "web", "n1", "10.0.1.1", {"app": "web"})
    db, cache = ({"podSelector": {"matchLabels": {"app": app}}} for app in ("db", "cache"))
    for peers in ([db], [db, cache], [cache], [cache, db], [db]):
        cluster.apply(http_policy(ingress=[{"from": peers}]))
        cluster.pod("x", f"db{len(cluster.state.endpoints)}", "n2", "10.0.2.1", {"app": "db"})
        cluster.pod("x", "cache", "n2", "10.0.2.2", {"app": "cache"})
        node_tables.update(cluster.state, cluster.changes)
        cluster.changes.clear()
        assert node_tables.tables == desired_tables(cluster.state, "n1")
