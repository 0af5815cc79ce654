"""From a policy object of any kind to its rules.

A visitor would get wrong: one object may be several `PolicyRules`, each with its subjects (`part_key`). A manifest that
cannot be read (a newer version wrote it) closes both directions for all pods of its namespace, of every namespace if it
has none: never silently open (I9).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from kilim.model.address import Cidr
from kilim.model.cidr_group import CIDR_GROUP, group_of
from kilim.model.cilium_network_policy import CILIUM_NETWORK_POLICY, CLUSTERWIDE, compile_cilium_policy
from kilim.model.cluster_network_policy import CLUSTER_NETWORK_POLICY, compile_cluster_network_policy
from kilim.model.labels import NAMESPACE
from kilim.model.network_policy import compile_network_policy, in_namespace
from kilim.model.nouns import Policy, decode_policy
from kilim.model.rules import CidrPeer, GroupPeer, Peer, PolicyRules
from kilim.model.selector import EXISTS, Requirement, selector_of
from kilim.model.state import Change
from kilim.model.tables import ENFORCE_EGRESS, ENFORCE_INGRESS

_COMPILERS: dict[str, Callable[[Policy, Mapping[str, object]], tuple[PolicyRules, ...]]] = {
    "NetworkPolicy": compile_network_policy,
    CLUSTER_NETWORK_POLICY: compile_cluster_network_policy,
    CILIUM_NETWORK_POLICY: compile_cilium_policy,
    CLUSTERWIDE: compile_cilium_policy,
    CIDR_GROUP: lambda policy, manifest: (),  # no rules: what it says is in labels of identities
}


@lru_cache(maxsize=2048)
def compile_policy(policy: Policy) -> tuple[PolicyRules, ...]:
    """Total (I1). The cache is a memo of a pure function."""
    try:
        manifest = json.loads(policy.manifest_json)
        if policy.kind not in _COMPILERS or not isinstance(manifest, dict):
            return _closed(policy)
        return _COMPILERS[policy.kind](policy, manifest)
    except (ValueError, RecursionError):
        return _closed(policy)


def cidrs_of(policy: Policy) -> tuple[Cidr, ...]:
    """The prefixes that need an identity of their own: every cidr and except of the directions that count, sorted."""
    if policy.kind == CIDR_GROUP:
        return group_of(policy).prefixes
    cidrs: set[Cidr] = set()
    for peer in peers_of(policy):
        if isinstance(peer, CidrPeer):
            cidrs.add(peer.cidr)
        if isinstance(peer, CidrPeer | GroupPeer):
            cidrs.update(peer.excepts)
    return tuple(sorted(cidrs))


def peers_of(policy: Policy) -> Iterator[Peer]:
    """May repeat itself."""
    return (peer for part in compile_policy(policy) for rule in part.rules for peer in rule.peers or ())


def rule_changes(change: Change) -> Iterator[tuple[str, PolicyRules | None]]:
    """A change of the state's table `policy`, part by part, for a `PolicyIndex`."""
    old, new = (() if each is None else compile_policy(decode_policy(each)) for each in (change.old, change.new))
    for number in range(max(len(old), len(new))):
        yield part_key(str(change.key), number), new[number] if number < len(new) else None


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
