"""Groups of CIDRs: the identity of every prefix inside one says so in a label, by which policies find it.

Easy to get wrong:
1. Inside is not only what a group lists: a longer prefix that somebody else names gets the label too, or it would fall
   out of the group.
2. The labels come before the group itself. A change of a large group takes several commits; cut off in between, the
   repeated command still finds the group different and finishes the rest.
"""

from collections.abc import Iterable

from kilim.controlplane.decide.cidr_look_up import GroupChange, covers, table_of
from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.identity import identity_for_cidr
from kilim.model.address import Cidr
from kilim.model.cidr_group import CIDR_GROUP, CidrGroup, group_of
from kilim.model.identity import Identity
from kilim.model.nouns import Policy, identity_to_pb, policy_to_pb
from kilim.model.state import policy_key
from kilim.v1 import events_pb2 as pb

_NOTHING = CidrGroup((), ())


def decide_cidr_group(draft: Draft, wanted: Policy) -> tuple[str, Iterable[Cidr]]:
    """ "created", "configured" or "unchanged", and the CIDRs that the group used to name."""
    before = draft.state.policies.get(policy_key(CIDR_GROUP, "", wanted.name))
    old = _NOTHING if before is None else group_of(before)
    new = group_of(wanted)
    change = GroupChange(wanted.name, new)
    for cidr in new.prefixes:  # of a group that is as it was, too: IPv6 ones once meant nothing
        identity_for_cidr(draft, cidr, change)
    if before == wanted:
        return "unchanged", ()
    _relabel(draft, change, old)
    draft.emit(pb.PolicyReplaced(policy=policy_to_pb(wanted)))
    return ("created" if before is None else "configured"), old.prefixes


def decide_remove_cidr_group(draft: Draft, name: str) -> tuple[bool, Iterable[Cidr]]:
    before = draft.state.policies.get(policy_key(CIDR_GROUP, "", name))
    if before is None:
        return False, ()
    _relabel(draft, GroupChange(name, None), group_of(before))
    draft.emit(pb.PolicyRemoved(kind=CIDR_GROUP, name=name))
    return True, group_of(before).prefixes


def _relabel(draft: Draft, change: GroupChange, old: CidrGroup) -> None:
    """Every identity inside the group as it was or will be."""
    groups = draft.view.cidr_groups
    touched = table_of({*old.prefixes, *(change.group.prefixes if change.group else ())})
    for cidr, number in sorted(groups.identity_at.items()):
        if covers(touched, cidr):
            labels = groups.labels(cidr, change)
            if labels != draft.state.identities[number].labels:
                draft.emit(pb.IdentityAllocated(identity=identity_to_pb(Identity(number, labels))))
