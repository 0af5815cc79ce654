"""The last flip of a verdict against its definition: the greatest seq whose verdict differs from the one before it."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilim.model.desired import desired_tables
from kilim.model.flips import Outcome, Parties, Past, last_flip, outcome_of
from kilim.model.fold import fold_event
from kilim.model.state import State, key_from_bytes
from kilim.v1 import events_pb2 as pb
from tests.pure.model.histories import ADDRESSES, IPV6_ADDRESSES, NODES, histories

names = st.sampled_from(("x/a", "x/b", "y/a", "x/c"))
parties_of = st.builds(
    Parties,
    st.one_of(names, st.sampled_from((*ADDRESSES[:2], *IPV6_ADDRESSES[1:3], 0xC6336401))),
    st.one_of(names, st.sampled_from((*ADDRESSES[:4], *IPV6_ADDRESSES[1:], 0xC6336401))),
    st.sampled_from((6, 17, 1, 58)),
    st.sampled_from((80, 85, 8080, 53)),
)


def by_definition(history: list[pb.Event], first: int, parties: Parties) -> tuple[int, Outcome, Outcome] | None:
    state, found, before = State(), None, None
    for seq, event in enumerate(history, 1):
        fold_event(state, event)
        after = outcome_of(state, {name: desired_tables(state, name) for name in NODES}, parties)
        if seq > first and before is not None and after != before:
            found = seq, before, after
        before = after
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories, st.integers(1, 20), parties_of)
def test_equal_to_the_definition(history: list[pb.Event], first: int, parties: Parties) -> None:
    state = State()
    for event in history[:first]:
        fold_event(state, event)
    events = list(enumerate(history[first:], first + 1))
    past = Past(parties)
    for table, key, value in state.records():
        past.see(table, key_from_bytes(table, key), value)
    for _, event in events:
        past.see_event(event)
    focused = past.focused()
    focused.load(state.records(), first)
    flip = last_flip(focused, events, parties)
    assert (flip and (flip.seq, flip.before, flip.after)) == by_definition(history, first, parties)
    assert flip is None or flip.event == history[flip.seq - 1]
