"""How a subject's rows are brought from old to new so that each packet sees either all old or all new ones. Pure.

A packet looks up the rows of one peer and those of any peer, one after the other, and so tier by tier. So a change in
place is safe iff, in a direction, it

1. adds or removes all rows of a peer, never some: a change within a peer's rows shows half of it, and
2. touches peers only, or any-peer only, of one tier only: both together would be seen one without the other, and
3. leaves the subject's flags: rows that go with the enforcement, or come with it, are otherwise missed or met too early
   (the driver sees to this one, as it alone knows the flags).

Within one peer the order does it: rows are added longest prefix first and removed shortest first, so no packet matches
a less specific row for the moment. All else is a flip: the new rows under a new table number, then the subject's row,
then (some time later) the old rows go.

The revision rises, so that established connections are judged again, unless only allowing rows were added.
"""

from typing import NamedTuple

from kilim.model.identity import ANY_PEER
from kilim.model.tables import ALLOW, EGRESS, INGRESS, PolicyKey, PolicyRows, action_of


class _Place(NamedTuple):
    """Rows that one look-up chooses among."""

    direction: int
    tier: int
    peer: int


class PolicyPlan(NamedTuple):
    flip: bool
    add: list[tuple[PolicyKey, int]]  # of a flip: all rows
    remove: list[PolicyKey]  # of a change in place; a flip retires all that was
    revise: bool


def plan_policy(old: PolicyRows, new: PolicyRows) -> PolicyPlan:
    added = {key: value for key, value in new.items() if old.get(key) != value}
    removed = [key for key in old if key not in new]
    if not _fits_in_place(old, new, added, removed):
        return PolicyPlan(True, longest_first(new), [], True)
    revise = bool(removed) or any(action_of(value) != ALLOW for value in added.values())
    return PolicyPlan(False, longest_first(added), sorted(removed, key=_specificity), revise)


def longest_first(rows: PolicyRows) -> list[tuple[PolicyKey, int]]:
    return sorted(rows.items(), key=lambda row: _specificity(row[0]), reverse=True)


def _specificity(key: PolicyKey) -> tuple[bool, int]:
    return key.protocol != 0, key.port_prefix_len


def _fits_in_place(old: PolicyRows, new: PolicyRows, added: PolicyRows, removed: list[PolicyKey]) -> bool:
    grown, shrunk = {_place(key) for key in added}, {_place(key) for key in removed}
    if any(_place(key) in grown for key in old) or any(_place(key) in shrunk for key in new):
        return False
    return all(_fits_direction([each for each in grown | shrunk if each.direction == way]) for way in (INGRESS, EGRESS))


def _fits_direction(changed: list[_Place]) -> bool:
    any_peer = any(each.peer == ANY_PEER for each in changed)
    return len({each.tier for each in changed}) <= 1 and not (any_peer and len(changed) > 1)


def _place(key: PolicyKey) -> _Place:
    return _Place(key.direction, key.tier, key.peer)
