"""How a subject's rows are brought from old to new so that each packet sees either all old or all new ones. Pure.

A packet looks up the rows of one peer and those of any peer, one after the other. So a change in place is safe iff, in
a direction, it

1. adds or removes all rows of a peer, never some: a change within a peer's rows shows half of it, and
2. touches peers only, or any-peer only: both together would be seen one without the other, and
3. leaves the subject's flags: rows that go with the enforcement, or come with it, are otherwise missed or met too early
   (the driver sees to this one, as it alone knows the flags).

Within one peer the order does it: rows are added longest prefix first and removed shortest first, so no packet matches
a less specific row for the moment. All else is a flip: the new rows under a new table number, then the subject's row,
then (some time later) the old rows go.

The revision rises, so that established connections are judged again, unless only allowing rows were added.
"""

from typing import NamedTuple

from kilim.model.tables import ALLOW, PolicyKey, PolicyRows


class PolicyPlan(NamedTuple):
    flip: bool
    add: list[tuple[PolicyKey, int]]  # of a flip: all rows
    remove: list[PolicyKey]  # of a change in place; a flip retires all that was
    revise: bool


def plan_policy(old: PolicyRows, new: PolicyRows) -> PolicyPlan:
    added = {key: verdict for key, verdict in new.items() if old.get(key) != verdict}
    removed = [key for key in old if key not in new]
    if not _fits_in_place(old, new, added, removed):
        return PolicyPlan(True, longest_first(new), [], True)
    revise = bool(removed) or any(verdict != ALLOW for verdict in added.values())
    return PolicyPlan(False, longest_first(added), sorted(removed, key=_specificity), revise)


def longest_first(rows: PolicyRows) -> list[tuple[PolicyKey, int]]:
    return sorted(rows.items(), key=lambda row: _specificity(row[0]), reverse=True)


def _specificity(key: PolicyKey) -> tuple[bool, int]:
    return key.protocol != 0, key.port_prefix_len


def _fits_in_place(old: PolicyRows, new: PolicyRows, added: PolicyRows, removed: list[PolicyKey]) -> bool:
    grown = {(key.direction, key.peer) for key in added}
    shrunk = {(key.direction, key.peer) for key in removed}
    if any((key.direction, key.peer) in grown for key in old):
        return False
    if any((key.direction, key.peer) in shrunk for key in new):
        return False
    changed = grown | shrunk
    return all((direction, 0) not in changed or _alone(changed, direction) for direction in (0, 1))


def _alone(changed: set[tuple[int, int]], direction: int) -> bool:
    return sum(1 for each, _ in changed if each == direction) == 1
