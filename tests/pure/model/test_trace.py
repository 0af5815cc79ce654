"""A trace agrees with the verdict that nodes give, on one port and on all of them, and its steps with its decision."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilim.model.fold import fold_event
from kilim.model.identity import HOST, WORLD
from kilim.model.reach import Reach
from kilim.model.rules import Origin
from kilim.model.state import State
from kilim.model.tables import EGRESS, PASS
from kilim.model.trace import Asked, Side, trace, trace_ports
from kilim.model.verdict import ALLOWED, POLICY_DENIED, judge_rows
from kilim.v1 import events_pb2 as pb
from tests.pure.model.histories import histories

PROTOCOL_PORTS = [(1, 0), (1, 8), (6, 80), (6, 8080), (17, 53), (132, 80), (47, 0)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories, st.sampled_from(PROTOCOL_PORTS))
def test_agrees_with_the_rows_in_any_state(history: list[pb.Event], l4: tuple[int, int]) -> None:
    state = State()
    for event in history:
        fold_event(state, event)
    reach = Reach(state)
    own = [number for number in state.identities if number < 1 << 24][:3]
    for asked in [Asked(one, other) for one in own for other in own] + [
        Asked(one, other, True, False) for one in own for other in (WORLD, HOST)
    ]:
        sides = trace(reach, asked, *l4)
        for side in sides:
            check(reach, side, l4)
        allowed = all(side.reason == ALLOWED for side in sides)
        protocol = l4[0] if l4[0] in (1, 6, 17, 132) else 0
        (found,) = [
            each
            for each in trace_ports(reach, asked)
            for one in each.ranges
            if one.protocol == protocol and one.first <= l4[1] <= one.last
        ]
        assert found.allowed == allowed
        if not allowed:
            first = next(side for side in sides if side.reason != ALLOWED)
            assert (found.direction, found.reason) == (first.direction, first.reason)


def check(reach: Reach, side: Side, l4: tuple[int, int]) -> None:
    assert side.reason == judge_rows(*reach.rows(side.subject), side.direction, side.peer, *l4)
    for tier in side.tiers:
        matching: set[Origin] = {
            rule.origin for step in tier.policies for rule in step.rules if rule.peer and rule.ports
        }
        objects = {origin for origin in tier.deciding if origin.section}
        assert objects <= matching
        if tier.action is None and tier.reached and tier.enforced:
            assert not matching
        if not tier.reached:
            assert tier.action is None
    if side.reason == POLICY_DENIED:
        assert all(tier.action in (None, PASS) for tier in side.tiers)


def test_both_sides_of_pods_and_one_of_the_world() -> None:
    reach = Reach(State())
    assert [side.direction for side in trace(reach, Asked(256, WORLD, True, False), 6, 80)] == [EGRESS]
    assert [side.reason for side in trace(reach, Asked(256, 257), 6, 80)] == ["NO_SUBJECT", "NO_SUBJECT"]
