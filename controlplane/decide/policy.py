"""Policies: a CIDR that one names needs an identity before, and loses it with the last policy that names it."""

from collections.abc import Iterable

from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.identity import identity_for_cidr
from kilim.model.address import Cidr
from kilim.model.nouns import Policy, policy_to_pb
from kilim.model.rules import cidrs_of
from kilim.model.state import policy_key
from kilim.v1 import events_pb2 as pb


def decide_policy(draft: Draft, wanted: Policy) -> tuple[str, Iterable[Cidr]]:
    """ "created", "configured" or "unchanged", and the CIDRs that the policy used to name."""
    before = draft.state.policies.get(policy_key(wanted.kind, wanted.namespace, wanted.name))
    if before == wanted:
        return "unchanged", ()
    for cidr in sorted(cidrs_of(wanted)):
        identity_for_cidr(draft, cidr)
    draft.emit(pb.PolicyReplaced(policy=policy_to_pb(wanted)))
    return ("created", ()) if before is None else ("configured", cidrs_of(before))


def decide_remove_policy(draft: Draft, kind: str, namespace: str, name: str) -> tuple[bool, Iterable[Cidr]]:
    before = draft.state.policies.get(policy_key(kind, namespace, name))
    if before is None:
        return False, ()
    draft.emit(pb.PolicyRemoved(kind=kind, namespace=namespace, name=name))
    return True, cidrs_of(before)
