"""Who the ends of a traced connection are: endpoints, addresses, identities, or labels that no pod has yet.

A visitor would get wrong: labels that no identity has get one in the state that is given, under a number that is free,
so that policy is resolved for it as for any other. Such a pod has no address and no named ports.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from kilim.model.address import is_ipv6
from kilim.model.facts import StateFacts
from kilim.model.identity import HOST, LAST_CLUSTER_LOCAL, REMOTE_NODE, RESERVED, WORLD, WORLD_IPV6, Identity, world_of
from kilim.model.labels import CLUSTER, IPV6_ONLY, NAMESPACE, label_map, security_labels
from kilim.model.nouns import Endpoint, identity_to_pb
from kilim.model.state import State

_BOTH = frozenset((4, 6))
_SOURCES = ("k8s:", "reserved:", "cidr:", "kilim:")


@dataclass(frozen=True, slots=True)
class TraceEnd:
    """`node` is empty where it is not known; `families` are those of its addresses, 4 and 6, both where that is not."""

    name: str
    identity: int
    is_ours: bool
    node: str = ""
    families: frozenset[int] = _BOTH


def end_of_endpoint(endpoint: Endpoint) -> TraceEnd:
    name = f"{endpoint.namespace}/{endpoint.name}"
    return TraceEnd(name, endpoint.identity, True, endpoint.node, frozenset(map(_family, endpoint.ips)) or _BOTH)


def end_of_address(state: State, ip: int, text: str, peer_node: str) -> TraceEnd:
    """As a node's `ipcache` would have it: `peer_node` is the node of the other end."""
    of_ip = frozenset((_family(ip),))
    for name in sorted(state.nodes):
        if ip in state.nodes[name].ips:
            identity = HOST if name == peer_node else state.nodes[name].identity or REMOTE_NODE
            return TraceEnd(text, identity, False, families=of_ip)
    for key in sorted(state.endpoints):
        if ip in state.endpoints[key].ips:
            return replace(end_of_endpoint(state.endpoints[key]), families=of_ip)
    cidrs = [(number, each.cidr) for number, each in sorted(state.identities.items(), reverse=True) if each.cidr]
    covering = [(cidr.prefix_len, number) for number, cidr in cidrs if cidr.contains_ip(ip)]
    longest = max((length for length, _ in covering), default=None)
    number = min((number for length, number in covering if length == longest), default=world_of(ip))
    return TraceEnd(text, number, False, families=of_ip)


def end_of_identity(state: State, number: int) -> TraceEnd | None:
    """None: nobody has that number."""
    facts = StateFacts(state)
    if not facts.knows(number):
        return None
    known = RESERVED.get(number) or state.identities[number]
    return TraceEnd(
        f"identity {number}", number, NAMESPACE in label_map(known.labels), families=_families_of_identity(known)
    )


def end_of_world(state: State, peer: TraceEnd) -> TraceEnd | None:
    """What is outside, over a family that the other end has."""
    return end_of_identity(state, WORLD if 4 in peer.families else WORLD_IPV6)


def _families_of_identity(identity: Identity) -> frozenset[int]:
    """Of pods and nodes those of its users, which may be more to come."""
    if identity.cidr is not None:
        return frozenset((_family(identity.cidr.ip),))
    if IPV6_ONLY in identity.labels:
        return frozenset((6,))
    return {WORLD: frozenset((4,)), WORLD_IPV6: frozenset((6,))}.get(identity.id, _BOTH)


def _family(ip: int) -> int:
    return 6 if is_ipv6(ip) else 4


def end_of_labels(state: State, labels: Iterable[str], namespace: str | None) -> TraceEnd:
    """Labels as `key=value` or `k8s:key=value`; the rest of what a pod's identity has is added."""
    given = [each if each.startswith(_SOURCES) else f"k8s:{each.removeprefix('any:')}" for each in labels]
    reserved = [number for number, each in RESERVED.items() if set(each.labels) & set(given)]
    if reserved:
        return TraceEnd(RESERVED[reserved[0]].labels[0], reserved[0], False)
    own = label_map(given)
    where = namespace or own.get(NAMESPACE) or "default"
    pairs = tuple((key.removeprefix("k8s:"), value) for key, value in own.items())
    of_namespace = state.namespaces[where].labels if where in state.namespaces else ()
    account = own.get("k8s:io.cilium.k8s.policy.serviceaccount", "")
    wanted = security_labels(pairs, where, of_namespace, account, own.get(CLUSTER) or _cluster_of(state))
    name = f"a pod in {where} with {','.join(sorted(given)) or 'no labels'}"
    of_ipv6 = tuple(sorted((*wanted, IPV6_ONLY)))
    known = state.identity_of_labels.get(wanted) or state.identity_of_labels.get(of_ipv6)
    return TraceEnd(name, known or _give_identity(state, wanted), True)


def _cluster_of(state: State) -> str:
    """What its pods have as their cluster's name."""
    names = (label_map(each.labels).get(CLUSTER) for _, each in sorted(state.identities.items()))
    return next((name for name in names if name), "default")


def _give_identity(state: State, labels: tuple[str, ...]) -> int:
    number = next(each for each in range(LAST_CLUSTER_LOCAL, 0, -1) if each not in state.identities)
    state.put("identity", number, identity_to_pb(Identity(number, labels)).SerializeToString(deterministic=True))
    return number
