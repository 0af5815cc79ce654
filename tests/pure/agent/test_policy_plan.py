"""When rows of a subject may change in place: never where a packet could meet half of a change."""

import pytest

from kilim.agent.bpf.policy import plan_policy
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
    assert plan_policy(HELD, changed).flip
