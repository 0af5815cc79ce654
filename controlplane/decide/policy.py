"""Policies: a CIDR that one names needs an identity before, and loses it with the last policy that names it.

The pods inside it are labelled before, too (`membership.py`).
"""

from collections.abc import Iterable
from dataclasses import replace

from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.identity import identity_for_cidr
from kilim.controlplane.decide.membership import admit_pods, let_go_of_pods
from kilim.model.address import Cidr
from kilim.model.compile import cidrs_of
from kilim.model.nouns import Policy, policy_to_pb
from kilim.model.settings import PODS, POLICY_CIDR_MATCH_MODE
from kilim.model.state import policy_key
from kilim.v1 import events_pb2 as pb

KINDS_WITH_POD_CIDRS = ("NetworkPolicy", "ClusterNetworkPolicy")


def prepare_policy(draft: Draft, wanted: Policy) -> None:
    """What means nothing before the policy stands."""
    admit_pods(draft, _with_mode(wanted, POLICY_CIDR_MATCH_MODE.read(draft.state)))


def decide_policy(draft: Draft, wanted: Policy) -> tuple[str, Iterable[Cidr]]:
    """ "created", "configured" or "unchanged", and the CIDRs that the policy used to name."""
    wanted = _with_mode(wanted, POLICY_CIDR_MATCH_MODE.read(draft.state))
    before = draft.state.policies.get(policy_key(wanted.kind, wanted.namespace, wanted.name))
    if before == wanted:
        return "unchanged", ()
    for cidr in sorted(cidrs_of(wanted)):
        identity_for_cidr(draft, cidr)
    draft.emit(pb.PolicyReplaced(policy=policy_to_pb(wanted)))
    return ("created", ()) if before is None else ("configured", cidrs_of(before))


def follow_cidr_match_mode(draft: Draft, mode: str) -> None:
    """Every policy says by itself what its CIDRs select."""
    dropped: list[Cidr] = []
    for key in sorted(draft.state.policies):
        before = draft.state.policies[key]
        wanted = _with_mode(before, mode)
        if wanted != before:
            admit_pods(draft, wanted)
            draft.emit(pb.PolicyReplaced(policy=policy_to_pb(wanted)))
            dropped += cidrs_of(before)
    let_go_of_pods(draft, dropped)


def _with_mode(policy: Policy, mode: str) -> Policy:
    excluded = mode != PODS and policy.kind in KINDS_WITH_POD_CIDRS and bool(cidrs_of(policy))
    return replace(policy, cidrs_exclude_pods=excluded)


def decide_remove_policy(draft: Draft, kind: str, namespace: str, name: str) -> tuple[bool, Iterable[Cidr]]:
    before = draft.state.policies.get(policy_key(kind, namespace, name))
    if before is None:
        return False, ()
    draft.emit(pb.PolicyRemoved(kind=kind, namespace=namespace, name=name))
    return True, cidrs_of(before)
