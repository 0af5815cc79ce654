"""Policies: a CIDR that one names needs an identity before, and loses it with the last policy that names it.

The pods inside it are labelled before, too (`membership.py`).
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.identity import identity_for_cidr
from kilim.controlplane.decide.membership import admit_pods, announce_to_pods, let_go_of_pods
from kilim.controlplane.decide.node_identity import NewTerms, admit_nodes, announce_to_nodes, let_go_of_nodes
from kilim.model.address import Cidr
from kilim.model.cilium_network_policy import CILIUM_NETWORK_POLICY, CLUSTERWIDE
from kilim.model.cluster_network_policy import CLUSTER_NETWORK_POLICY
from kilim.model.compile import named_cidrs, references_of
from kilim.model.nouns import Policy, policy_to_pb
from kilim.model.settings import NODES, NONE, POLICY_CIDR_MATCH_MODE
from kilim.model.state import policy_key
from kilim.v1 import events_pb2 as pb

KINDS_BY_ADDRESS = ("NetworkPolicy", CLUSTER_NETWORK_POLICY)  # whose CIDRs speak of addresses, whosever they are
POLICY_KINDS = (*KINDS_BY_ADDRESS, CILIUM_NETWORK_POLICY, CLUSTERWIDE)


class Announced(NamedTuple):
    prefixes: list[Cidr]
    node_terms: NewTerms


def announce_policy(draft: Draft, wanted: Policy) -> Announced:
    wanted = _with_mode(draft, wanted, POLICY_CIDR_MATCH_MODE.read(draft.state))
    return Announced(announce_to_pods(draft, wanted), announce_to_nodes(draft, wanted))


def prepare_policy(draft: Draft, announced: Announced, most: int | None = None) -> bool:
    """What means nothing before the policy stands; as `admit_pods`."""
    is_all = admit_pods(draft, announced.prefixes, most)
    if is_all:
        admit_nodes(draft, announced.node_terms)
    return is_all


def decide_policy(draft: Draft, wanted: Policy) -> tuple[str, Iterable[Cidr]]:
    """ "created", "configured" or "unchanged", and the CIDRs that the policy used to name."""
    wanted = _with_mode(draft, wanted, POLICY_CIDR_MATCH_MODE.read(draft.state))
    before = draft.state.policies.get(policy_key(wanted.kind, wanted.namespace, wanted.name))
    for cidr in sorted(
        cidrs_of(draft, wanted)
    ):  # of a policy that is as it was, too: its IPv6 CIDRs once meant nothing
        identity_for_cidr(draft, cidr)
    if before == wanted:
        return "unchanged", ()
    was_named = () if before is None else cidrs_of(draft, before)
    draft.emit(pb.PolicyReplaced(policy=policy_to_pb(wanted)))
    return ("created", ()) if before is None else ("configured", was_named)


def follow_cidr_match_mode(draft: Draft, mode: str) -> None:
    """Every policy says by itself what its CIDRs select."""
    dropped: list[Cidr] = []
    for key in sorted(draft.state.policies):
        before = draft.state.policies[key]
        wanted = _with_mode(draft, before, mode)
        if wanted != before:
            admit_pods(draft, announce_to_pods(draft, wanted))
            admit_nodes(draft, announce_to_nodes(draft, wanted))
            draft.emit(pb.PolicyReplaced(policy=policy_to_pb(wanted)))
            dropped += cidrs_of(draft, before)
    let_go_of_pods(draft, dropped)
    let_go_of_nodes(draft)


def cidrs_of(draft: Draft, policy: Policy) -> tuple[Cidr, ...]:
    return named_cidrs(policy, draft.view.parts_of(policy))


def _with_mode(draft: Draft, policy: Policy, mode: str) -> Policy:
    if policy.kind not in POLICY_KINDS or not (references_of(policy) or cidrs_of(draft, policy)):
        return policy
    by_address = policy.kind in KINDS_BY_ADDRESS
    nodes = mode != NONE if by_address else mode == NODES
    return replace(policy, cidrs_exclude_pods=by_address and mode == NONE, cidrs_include_nodes=nodes)


def decide_remove_policy(draft: Draft, kind: str, namespace: str, name: str) -> tuple[bool, Iterable[Cidr]]:
    before = draft.state.policies.get(policy_key(kind, namespace, name))
    if before is None:
        return False, ()
    draft.emit(pb.PolicyRemoved(kind=kind, namespace=namespace, name=name))
    return True, cidrs_of(draft, before)
