"""When rows of a subject may change in place: never where a packet could meet half of a change."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilim.agent.bpf.policy import plan_changes, plan_policy
from kilim.model.tables import ADMIN, ALLOW, BASELINE, DENY, EGRESS, INGRESS, NORMAL, PASS, PolicyKey, row_value

ADMIN_ALLOW, ADMIN_DENY, ADMIN_PASS = (row_value(action, 9) for action in (ALLOW, DENY, PASS))


def key(tier: int, peer: int, direction: int = INGRESS) -> PolicyKey:
    return PolicyKey(direction, peer, 0, 0, 0, tier)


HELD = {key(NORMAL, 300): ALLOW, key(ADMIN, 300): ADMIN_DENY}


@pytest.mark.parametrize(
    ("added", "in_place"),
    [
        ({key(ADMIN, 301): ADMIN_ALLOW}, True),
        ({key(NORMAL, 301): ALLOW}, True),
        ({key(ADMIN, 301): ADMIN_DENY, key(ADMIN, 302): ADMIN_DENY}, True),
        ({key(ADMIN, 301): ADMIN_DENY, key(NORMAL, 301): ALLOW}, False),
        ({key(ADMIN, 301): ADMIN_DENY, key(BASELINE, 302): ADMIN_DENY}, False),
        ({key(ADMIN, 301): ADMIN_DENY, key(ADMIN, 0): ADMIN_ALLOW}, False),
        ({key(ADMIN, 301): ADMIN_DENY, key(NORMAL, 301, EGRESS): ALLOW}, True),
        ({key(BASELINE, 300): ADMIN_DENY}, True),
    ],
)
def test_a_direction_changes_in_one_tier_or_all_at_once(added: dict[PolicyKey, int], in_place: bool) -> None:
    assert plan_policy(HELD, HELD | added).flip is not in_place
    assert plan_policy(HELD | added, HELD).flip is not in_place


def test_only_what_allows_leaves_connections_alone() -> None:
    assert not plan_policy(HELD, HELD | {key(ADMIN, 301): ADMIN_ALLOW}).revise
    assert plan_policy(HELD, HELD | {key(ADMIN, 301): ADMIN_PASS}).revise
    assert plan_policy(HELD, HELD | {key(ADMIN, 301): ADMIN_DENY}).revise
    assert plan_policy(HELD | {key(ADMIN, 301): ADMIN_ALLOW}, HELD).revise


def test_another_precedence_of_a_row_is_a_change() -> None:
    changed = HELD | {key(ADMIN, 300): row_value(DENY, 8)}
    plan = plan_policy(HELD, changed)
    assert plan.add == [(key(ADMIN, 300), row_value(DENY, 8))] and plan.revise and not plan.flip


def test_peers_and_any_peer_change_at_once() -> None:
    assert plan_policy({key(NORMAL, 300): ALLOW}, {key(NORMAL, 0): ALLOW}).flip
    assert plan_changes({}, {key(NORMAL, 300): ALLOW, key(NORMAL, 0): ALLOW}) is None


_PACKETS = [(protocol, port) for protocol in (6, 17, 58) for port in (0, 79, 80, 81, 96, 65535)]
_l4s = st.sampled_from(
    [(0, 0, 0), (58, 0, 0), *((6, 80 & (0xFFFF << (16 - length)) & 0xFFFF, length) for length in (0, 9, 12, 15, 16))]
)
_peers = st.sampled_from((0, 300, 301))
_keys = st.builds(lambda peer, l4: PolicyKey(INGRESS, peer, *l4), _peers, _l4s)
_rows = st.dictionaries(_keys, st.sampled_from((ALLOW, DENY)))


def verdict(rows: dict[PolicyKey, int], peer: int, packet: tuple[int, int]) -> int:
    """As a program finds it: longest match of the peer and of any peer, the greater value; 0: no row."""
    return max(longest_match(rows, peer, *packet), longest_match(rows, 0, *packet))


def longest_match(rows: dict[PolicyKey, int], peer: int, protocol: int, port: int) -> int:
    matches = [
        (key.protocol != 0, key.port_prefix_len, value)
        for key, value in rows.items()
        if key.peer == peer and key.protocol in (0, protocol) and (port ^ key.port) >> (16 - key.port_prefix_len) == 0
    ]
    return max(matches)[2] if matches else 0


@settings(max_examples=300, deadline=None)
@given(_rows, _rows, st.booleans())
def test_each_packet_goes_from_old_to_new_in_one_step(
    old: dict[PolicyKey, int], new: dict[PolicyKey, int], any_peer: bool
) -> None:
    """Rows at random, also those that others cover; of any peer or of peers they stay, so that nothing flips."""
    new = {key: value for key, value in new.items() if (key.peer == 0) == any_peer}
    new |= {key: value for key, value in old.items() if (key.peer == 0) != any_peer}
    plan = plan_policy(old, new)
    assert not plan.flip
    steps = [rows := dict(old)]
    for key, value in plan.add:
        steps.append(rows := rows | {key: value})
    for gone in plan.remove:
        steps.append(rows := {key: value for key, value in rows.items() if key != gone})
    assert rows == new
    for peer in (0, 300, 301, 302):
        for packet in _PACKETS:
            seen = [verdict(each, peer, packet) for each in steps]
            assert len([1 for before, after in pairwise(seen) if before != after]) <= 1, (peer, packet)


@settings(max_examples=200, deadline=None)
@given(_rows, _rows)
def test_a_plan_from_the_changes_alone_is_the_plan_from_all_rows(
    old: dict[PolicyKey, int], new: dict[PolicyKey, int]
) -> None:
    changes: dict[PolicyKey, int | None] = {key: value for key, value in new.items() if old.get(key) != value}
    changes |= dict.fromkeys(old.keys() - new.keys())
    plan, whole = plan_changes(old, changes), plan_policy(old, new)
    assert (plan is None) == whole.flip
    if plan is not None:
        assert (dict(plan.add), set(plan.remove), plan.revise) == (dict(whole.add), set(whole.remove), whole.revise)
