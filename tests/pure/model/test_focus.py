"""A focused replay against its definition: the last event at which a row of the whole tables changed."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilim.model.desired import desired_tables
from kilim.model.explain import Flow, Row, explain
from kilim.model.focus import Focus, Focused, Thing, Watch, focus_of, things_of
from kilim.model.fold import fold_event
from kilim.model.node_tables import NodeTables
from kilim.model.state import State, policy_key
from kilim.v1 import events_pb2 as pb
from tests.pure.model.histories import ADDRESSES, NODES, histories
from tests.pure.model.test_explain import flows

many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def whole_value(thing: Thing, state: State, tables: dict[str, NodeTables]) -> Any:
    if isinstance(thing, Row):
        return thing.value(tables[thing.node].tables)
    return state.policies.data.get(policy_key(*thing))


def last_changes(history: list[pb.Event], things: list[Thing], first: int) -> dict[Thing, int]:
    """The definition: the greatest seq after `first` at which the whole's value was another one than before."""
    state, tables = State(), {name: NodeTables(name) for name in NODES}
    values: dict[Thing, Any] = {}
    changed: dict[Thing, int] = {}
    for seq, event in enumerate(history, 1):
        changes = fold_event(state, event)
        for each in tables.values():
            each.update(state, changes)
        for thing in things:
            value = whole_value(thing, state, tables)
            if value != values.get(thing) and seq > first:
                changed[thing] = seq
            values[thing] = value
    return changed


def folded(history: list[pb.Event]) -> State:
    state = State()
    for event in history:
        fold_event(state, event)
    return state


@many
@given(histories, flows, st.integers(0, 20))
def test_since_when_every_entry_is_so(history: list[pb.Event], flow: Flow, first: int) -> None:
    state = folded(history)
    explanation = explain(flow, {name: desired_tables(state, name) for name in NODES}, state)
    things = things_of(explanation)
    watch = Watch(focus_of(explanation), things)
    watch.begin(folded(history[:first]).records(), first)
    for seq, event in enumerate(history[first:], first + 1):
        watch.follow(seq, event)
    assert {thing: since.seq for thing, since in watch.changed.items()} == last_changes(history, things, first)
    assert all(since.event == history[since.seq - 1] for since in watch.changed.values())


@many
@given(histories, flows)
def test_the_focused_state_is_enough_to_explain(history: list[pb.Event], flow: Flow) -> None:
    state = folded(history)
    explanation = explain(flow, {name: desired_tables(state, name) for name in NODES}, state)
    focused = Focused(focus_of(explanation), NODES)
    focused.load(state.records(), len(history))
    tables = {name: each.tables for name, each in focused.nodes.items()}
    assert explain(flow, tables, focused.state) == explanation


@many
@given(
    histories,
    st.frozensets(st.sampled_from(ADDRESSES), min_size=1, max_size=2),
    st.frozensets(st.sampled_from((256, 257, 259, 0, 1 << 24)), min_size=1, max_size=3),
)
def test_focused_rows_are_those_of_the_whole(
    history: list[pb.Event], ips: frozenset[int], identities: frozenset[int]
) -> None:
    focused, state = Focused(Focus(ips, identities), NODES[:2]), State()
    for seq, event in enumerate(history, 1):
        fold_event(state, event)
        focused.follow(seq, event)
    for name in NODES[:2]:
        kept, whole = focused.nodes[name].tables, desired_tables(state, name)
        for ip in ips:
            assert kept.endpoints.get(ip) == whole.endpoints.get(ip)
            for prefix_len in range(33):
                key = (ip & (0xFFFFFFFF << (32 - prefix_len)) & 0xFFFFFFFF, prefix_len)
                assert kept.ipcache.get(key) == whole.ipcache.get(key)
        for subject in identities:
            assert kept.subjects.get(subject) == whole.subjects.get(subject)
            rows = whole.policy.get(subject, {})
            wanted = {key: verdict for key, verdict in rows.items() if key.peer in (0, *identities)}
            mine = kept.policy.get(subject, {})
            assert {key: verdict for key, verdict in mine.items() if key.peer in (0, *identities)} == wanted
