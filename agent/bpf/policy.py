"""How a subject's rows are brought from old to new so that each packet sees either all old or all new ones. Pure.

A packet looks up the rows of one peer and those of any peer, one after the other, and so tier by tier; each look-up
gives the longest match. So a change in place is safe iff, in a direction, it

1. touches rows of peers only, or of any peer only, and of one tier only: both together would be seen one without the
   other, and
2. leaves the subject's flags: rows that go with the enforcement, or come with it, are otherwise missed or met too early
   (the driver sees to this one, as it alone knows the flags).

What one look-up finds goes from old to new in one step, whatever changes: the rows that match a packet are prefixes of
one another. Rows come, or get another value, longest prefix first: the first of them that the packet meets is the last
word, or all of them are behind a row that stays or goes. Then rows go, shortest first: only the last of them that the
packet met makes a difference, and what it meets then stays. All else is a flip: the new rows under a new table number,
then the subject's row, then (some time later) the old rows go.

The revision rises, so that established connections are judged again, unless only allowing rows were added.
"""

from typing import NamedTuple

from kilim.model.identity import ANY_PEER
from kilim.model.tables import ALLOW, EGRESS, INGRESS, PolicyKey, PolicyRows, RowChanges, action_of


class PolicyPlan(NamedTuple):
    flip: bool
    add: list[tuple[PolicyKey, int]]  # in the order in which they are to be written
    remove: list[PolicyKey]  # in place, in this order, after the additions; a flip retires all that was
    revise: bool


def plan_policy(old: PolicyRows, new: PolicyRows) -> PolicyPlan:
    changes: RowChanges = {key: value for key, value in new.items() if old.get(key) != value}
    changes |= {key: None for key in old if key not in new}
    return plan_changes(old, changes) or flip_to(new)


def plan_changes(old: PolicyRows, changes: RowChanges) -> PolicyPlan | None:
    """In place, without a look at the rows that stay. None: it takes a flip."""
    if not all(_fits_direction([key for key in changes if key.direction == way]) for way in (INGRESS, EGRESS)):
        return None
    added = {key: value for key, value in changes.items() if value is not None and old.get(key) != value}
    removed = sorted((key for key, value in changes.items() if value is None and key in old), key=_specificity)
    revise = bool(removed) or any(key in old or action_of(value) != ALLOW for key, value in added.items())
    return PolicyPlan(False, longest_first(added), removed, revise)


def flip_to(new: PolicyRows) -> PolicyPlan:
    return PolicyPlan(True, longest_first(new), [], True)


def longest_first(rows: PolicyRows) -> list[tuple[PolicyKey, int]]:
    return sorted(rows.items(), key=lambda row: _specificity(row[0]), reverse=True)


def _specificity(key: PolicyKey) -> tuple[bool, int]:
    return key.protocol != 0, key.port_prefix_len


def _fits_direction(changed: list[PolicyKey]) -> bool:
    if len({each.tier for each in changed}) > 1:
        return False
    return len({each.peer == ANY_PEER for each in changed}) <= 1
