"""The fold and its digest: total, undone without trace, and the same by any way to the same entries."""

from hypothesis import given
from hypothesis import strategies as st

from kilim.model.fold import fold_event, fold_record
from kilim.model.state import State
from kilim.v1 import events_pb2 as pb
from tests.pure.model.histories import events, histories


def entries(state: State) -> list[tuple[str, bytes, bytes]]:
    return list(state.records())


def indexes(state: State) -> tuple[dict[int, set[str]], dict[tuple[str, ...], int]]:
    lowest: dict[tuple[str, ...], int] = {}
    for number in sorted(state.identities):
        lowest.setdefault(state.identities[number].labels, number)
    assert state.identity_of_labels == lowest
    return {key: set(value) for key, value in state.endpoints_of_identity.items()}, lowest


@given(histories)
def test_a_snapshot_gives_the_state_again(history: list[pb.Event]) -> None:
    state = State()
    for number, event in enumerate(history, 1):
        fold_record(state, number, event.SerializeToString())
    again = State()
    again.load(state.records(), state.seq)
    assert (again.digest, again.seq, entries(again)) == (state.digest, state.seq, entries(state))
    assert indexes(again) == indexes(state)


@given(histories, st.lists(events, max_size=10))
def test_undo_leaves_no_trace(history: list[pb.Event], tried: list[pb.Event]) -> None:
    state = State()
    for event in history:
        fold_event(state, event)
    before = (state.digest, entries(state), indexes(state))
    changes = [change for event in tried for change in fold_event(state, event)]
    state.undo(changes)
    assert (state.digest, entries(state), indexes(state)) == before


@given(histories)
def test_the_digest_depends_on_the_entries_alone(history: list[pb.Event]) -> None:
    state, other = State(), State()
    for event in history:
        fold_event(state, event)
    for name, key, value in reversed(entries(state)):
        other.load([(name, key, value)], 0)
    assert other.digest == state.digest
    for change in [c for event in history for c in fold_event(State(), event)]:
        other.put(change.table, change.key, None)
    assert (other.digest, entries(other)) == (bytes(32), [])


@given(st.lists(st.one_of(st.binary(max_size=40), events.map(lambda event: event.SerializeToString()[:-1]))))
def test_any_bytes_fold(records: list[bytes]) -> None:
    state = State()
    for number, record in enumerate(records, 1):
        fold_record(state, number, record)
        assert state.seq == number
