"""Pods in the prefixes that policies name: a label of their identity for each, given before the policy, gone after it.

Easy to get wrong:
1. The labels mean nothing before the policy stands. A policy over very many pods takes several commits; cut off in
   between, the repeated command still finds its prefixes unnamed and labels the rest.
2. When the last policy that names a prefix has gone, its label means nothing again. Small changes take it away at once;
   of large ones the rest goes after a while, by `WithdrawMemberships`, which also mends what was cut off for good.
"""

from collections.abc import Iterable, Iterator

from kilim.controlplane.decide.command import Accepted, WithdrawMemberships
from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.endpoint import namespace_labels, relabel_endpoint
from kilim.controlplane.decide.node_identity import AT_ONCE, let_go_of_nodes
from kilim.controlplane.decide.prefixes import PrefixTable, pod_prefixes
from kilim.controlplane.decide.view import View
from kilim.model.address import Cidr, host_length
from kilim.model.nouns import Policy

_FEW = 1024  # addresses that are looked up one by one


def announce_to_pods(draft: Draft, policy: Policy) -> list[Cidr]:
    """Those prefixes of a policy to come that no other names. Of several policies all are announced before pods are
    admitted, or they would get one label after the other, and another identity each time."""
    named = draft.view.pod_prefixes
    fresh = [
        each
        for each in pod_prefixes(draft.view.parts_of(policy))
        if each not in named and each not in draft.prefixes_to_come
    ]
    for prefix in fresh:
        draft.prefixes_to_come.count(prefix, 1)
    return fresh


def admit_pods(draft: Draft, announced: Iterable[Cidr], most: int | None = None) -> bool:
    """Label the pods in them; no more where the draft has come to `most` events. Whether that was all."""
    missing = {ip for prefix in announced for ip in _unlabelled(draft.view, prefix)}
    for key in dict.fromkeys(draft.view.endpoint_at[ip] for ip in sorted(missing)):
        if most is not None and len(draft.events) >= most:
            return False
        _put(draft, key)
    return True


def _unlabelled(view: View, prefix: Cidr) -> Iterator[int]:
    """When the policy comes for which thousands were labelled, none is looked at again."""
    users = view.state.endpoints_of_identity
    labelled = set[str]().union(*(users.get(number, ()) for number in view.bearers.of(prefix)))
    return (ip for ip in _addresses_in(view, prefix) if view.endpoint_at[ip] not in labelled)


def let_go_of_pods(draft: Draft, prefixes: Iterable[Cidr]) -> None:
    """Take the labels away that no policy needs any more, of as many endpoints as leave the change small."""
    draft.prefixes_to_come = PrefixTable()
    for prefix in sorted(set(prefixes)):
        if prefix in draft.view.pod_prefixes:
            continue
        for number in sorted(draft.view.bearers.of(prefix)):
            for key in sorted(draft.state.endpoints_of_identity.get(number, ())):
                if len(draft.events) >= AT_ONCE:
                    return
                _put(draft, key)


def unneeded_among(view: View, prefixes: Iterable[Cidr]) -> tuple[Cidr, ...]:
    return tuple(each for each in sorted(set(prefixes)) if each not in view.pod_prefixes and view.bearers.of(each))


def unneeded_prefixes(view: View) -> list[Cidr]:
    """Prefixes that endpoints have labels of and no policy names; sorted."""
    users = view.state.endpoints_of_identity
    return sorted(
        prefix
        for prefix, numbers in view.bearers.items()
        if prefix not in view.pod_prefixes and any(number in users for number in numbers)
    )


def decide_withdraw(draft: Draft, command: WithdrawMemberships) -> Accepted:
    let_go_of_pods(draft, command.prefixes)
    let_go_of_nodes(draft)
    return Accepted()


def _put(draft: Draft, key: str) -> None:
    endpoint = draft.state.endpoints[key]
    relabel_endpoint(draft, endpoint, namespace_labels(draft.state, endpoint.namespace))


def _addresses_in(view: View, prefix: Cidr) -> Iterable[int]:
    size = 1 << (host_length(prefix.ip) - prefix.prefix_len)
    if size > _FEW:
        return (ip for ip in view.endpoint_at if prefix.contains_ip(ip))
    return (ip for ip in range(prefix.ip, prefix.ip + size) if ip in view.endpoint_at)
