"""From a policy object of any kind to its rules.

A visitor would get wrong: one object may be several `PolicyRules`, each with its subjects (`part_key`). A manifest that
cannot be read (a newer version wrote it) closes both directions for all pods of its namespace, of every namespace if it
has none: never silently open (I9).

What a policy says depends on the services that it refers to (`service_reference.py`), so rules are made in two steps:
as written, from the policy alone, and compiled, with the services there are. Where a policy refers to none, the two are
the same object; `policy_parts.py` does the second step again when services change.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

from kilim.model.address import Cidr
from kilim.model.cidr_group import CIDR_GROUP, group_of
from kilim.model.cilium_network_policy import CILIUM_NETWORK_POLICY, CLUSTERWIDE, compile_cilium_policy
from kilim.model.cluster_network_policy import CLUSTER_NETWORK_POLICY, compile_cluster_network_policy
from kilim.model.labels import NAMESPACE
from kilim.model.network_policy import compile_network_policy, in_namespace
from kilim.model.nouns import Policy
from kilim.model.rules import CidrPeer, GroupPeer, Peer, PolicyRules, Rule, unique
from kilim.model.selector import EXISTS, Requirement, selector_of
from kilim.model.service_index import Services
from kilim.model.service_reference import ServiceReference
from kilim.model.tables import ENFORCE_EGRESS, ENFORCE_INGRESS

_COMPILERS: dict[str, Callable[[Policy, Mapping[str, object]], tuple[PolicyRules, ...]]] = {
    "NetworkPolicy": compile_network_policy,
    CLUSTER_NETWORK_POLICY: compile_cluster_network_policy,
    CILIUM_NETWORK_POLICY: compile_cilium_policy,
    CLUSTERWIDE: compile_cilium_policy,
    CIDR_GROUP: lambda policy, manifest: (),  # no rules: what it says is in labels of identities
}


def compile_policy(policy: Policy, services: Services) -> tuple[PolicyRules, ...]:
    """Total (I1)."""
    parts = parts_as_written(policy)
    return with_services(parts, services) if references_of(policy) else parts


@lru_cache(maxsize=2048)
def parts_as_written(policy: Policy) -> tuple[PolicyRules, ...]:
    """Without what its references to services come to. Total (I1). The cache is a memo of a pure function."""
    try:
        manifest = json.loads(policy.manifest_json)
        if policy.kind not in _COMPILERS or not isinstance(manifest, dict):
            return _closed(policy)
        return _COMPILERS[policy.kind](policy, manifest)
    except (ValueError, RecursionError):
        return _closed(policy)


@lru_cache(maxsize=2048)
def references_of(policy: Policy) -> frozenset[ServiceReference]:
    """A memo of a pure function."""
    return frozenset(each for part in parts_as_written(policy) for rule in part.rules for each in rule.services)


def with_services(parts: Iterable[PolicyRules], services: Services) -> tuple[PolicyRules, ...]:
    return tuple(replace(part, rules=tuple(_expanded(rule, services) for rule in part.rules)) for part in parts)


def _expanded(rule: Rule, services: Services) -> Rule:
    if not rule.services:
        return rule
    found = [services.peers_of(each) for each in rule.services]
    if len(found) == 1 and not rule.peers:  # shared with all rules that say the same
        return rule._replace(peers=found[0])
    return rule._replace(peers=unique((*(rule.peers or ()), *(peer for peers in found for peer in peers))))


def cidrs_of(policy: Policy, services: Services) -> tuple[Cidr, ...]:
    """The prefixes that need an identity of their own: every cidr and except of the directions that count, sorted."""
    return named_cidrs(policy, compile_policy(policy, services))


def named_cidrs(policy: Policy, parts: Iterable[PolicyRules]) -> tuple[Cidr, ...]:
    """`parts`: the policy, compiled."""
    if policy.kind == CIDR_GROUP:
        return group_of(policy).prefixes
    cidrs: set[Cidr] = set()
    for peer in peers_of(parts):
        if isinstance(peer, CidrPeer):
            cidrs.add(peer.cidr)
        if isinstance(peer, CidrPeer | GroupPeer):
            cidrs.update(peer.excepts)
    return tuple(sorted(cidrs))


def peers_of(parts: Iterable[PolicyRules]) -> Iterator[Peer]:
    """May repeat itself."""
    return (peer for part in parts for rule in part.rules for peer in rule.peers or ())


def part_key(key: str, number: int) -> str:
    """Of the parts of the policy with that key in the state."""
    return f"{key}\0{number}" if number else key


def object_key(part: str) -> str:
    """The key in the state of the policy with that part."""
    return part.partition("\0")[0]


def _closed(policy: Policy) -> tuple[PolicyRules, ...]:
    everyone = [in_namespace(policy.namespace) if policy.namespace else Requirement(NAMESPACE, EXISTS)]
    flags = ENFORCE_INGRESS | ENFORCE_EGRESS
    return (PolicyRules(policy.kind, policy.namespace, policy.name, selector_of(everyone), flags, ()),)
