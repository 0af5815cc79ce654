"""Identities: the number for a set of labels, allocated by the log so that two allocations cannot race.

A port name in a policy means what each pod has under it, and policy is by identity: so endpoints of one identity offer
the same named ports. Which identity an endpoint gets, first that holds:
 1. that of its labels, if other endpoints have it and all of them offer the same;
 2. that of its labels and a label that says its named ports, if other endpoints have it;
 3. that of its labels, if no other endpoint has it;
 4. as 2, allocated.
"""

from collections.abc import Iterable, Mapping

from kilim.controlplane.decide.capacity import check_ipcache
from kilim.controlplane.decide.cidr_look_up import GroupChange
from kilim.controlplane.decide.command import Accepted, AllocateIdentities, ReleaseIdentities
from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.refusal import Code, Refusal
from kilim.controlplane.decide.view import FreeNumbers, View
from kilim.model.address import Cidr
from kilim.model.identity import FIRST_NODE, IPV6_WORLD, NODE_LABEL, WORLD_IPV6, Identity, is_shared
from kilim.model.labels import named_ports_label
from kilim.model.nouns import Endpoint, NamedPort, Setting, identity_to_pb, setting_to_pb
from kilim.model.settings import LAST_IDENTITY
from kilim.v1 import events_pb2 as pb


def identity_of_endpoint(
    draft: Draft, labels: tuple[str, ...], ports: tuple[NamedPort, ...], before: Endpoint | None
) -> int:
    """`labels` are sorted; `before` is the endpoint as it is now: it does not count among the others."""
    plain = draft.state.identity_of_labels.get(labels)
    others = _others(draft, plain, before)
    if plain is not None and others and _offer(draft, plain, before) == dict.fromkeys(ports, others):
        return plain
    split = tuple(sorted((*labels, named_ports_label(ports))))
    if others or _others(draft, draft.state.identity_of_labels.get(split), before):
        return identity_for(draft, split)
    return identity_for(draft, labels)


def _others(draft: Draft, number: int | None, before: Endpoint | None) -> int:
    """How many other endpoints have an identity."""
    if number is None:
        return 0
    own = before is not None and before.identity == number
    return len(draft.state.endpoints_of_identity.get(number, ())) - own


def _offer(draft: Draft, number: int, before: Endpoint | None) -> Mapping[NamedPort, int]:
    """How many other endpoints of an identity offer each named port."""
    offered = draft.view.bounds.port_counts(number)
    if before is None or before.identity != number or not before.named_ports:
        return offered
    counts = dict(offered)
    for port in before.named_ports:
        counts[port] -= 1
    return {port: count for port, count in counts.items() if count}


def identity_for(draft: Draft, labels: tuple[str, ...]) -> int:
    """The number that stands for these labels; a new one where there is none."""
    known = draft.state.identity_of_labels.get(labels)
    if known is not None:
        return known
    numbers = draft.view.node_numbers if NODE_LABEL in labels else draft.view.local_numbers
    return _allocate(draft, numbers, labels)


def identity_for_cidr(draft: Draft, cidr: Cidr, changed: GroupChange | None = None) -> int:
    """`changed`: a group of CIDRs that this command changes."""
    known = draft.view.cidr_groups.identity_at.get(cidr)
    if known is not None:
        return known
    check_ipcache(draft, 1)
    return _allocate(draft, draft.view.cidr_numbers, draft.view.cidr_groups.labels(cidr, changed))


def ensure_ipv6_world(draft: Draft) -> None:
    """Once there is IPv6, what is outside and has such an address is of the world, too. Not before: where there is none
    nothing changes."""
    if WORLD_IPV6 not in draft.state.identities:
        draft.emit(pb.IdentityAllocated(identity=identity_to_pb(IPV6_WORLD)))


def release_unnamed(draft: Draft, cidrs: Iterable[Cidr]) -> None:
    """Release the identities of those CIDRs that no policy names any more."""
    for cidr in sorted(set(cidrs)):
        number = draft.view.cidr_groups.identity_at.get(cidr)
        if number is not None and cidr not in draft.view.cidr_uses:
            draft.emit(pb.IdentityReleased(id=number))


def decide_allocate(draft: Draft, command: AllocateIdentities) -> Accepted:
    for labels, draft.cause in command.wanted:
        identity_for(draft, labels)
    return Accepted()


def decide_release(draft: Draft, command: ReleaseIdentities) -> Accepted:
    released = [
        number
        for number in sorted(set(command.ids))
        if is_shared(number) and number in draft.state.identities and not is_used(draft.view, number)
    ]
    _note_last(draft, released)
    for number in released:
        draft.emit(pb.IdentityReleased(id=number))
    return Accepted()


def _note_last(draft: Draft, released: list[int]) -> None:
    """So that the numbers are given again only when all others have been: a node that was cut off may still send them
    with packets. Those of prefixes and of nodes are in no packet."""
    state, numbers = draft.state, draft.view.local_numbers
    if LAST_IDENTITY.name not in state.settings:
        if any(number in numbers for number in released):
            _set_last(draft, max(number for number in state.identities if number in numbers))
    elif any(numbers.is_since(number, state) for number in released):
        _set_last(draft, numbers.up_to(state))


def _set_last(draft: Draft, number: int) -> None:
    draft.emit(pb.SettingChanged(setting=setting_to_pb(Setting(LAST_IDENTITY.name, str(number)))))


def is_used(view: View, number: int) -> bool:
    """Of those that endpoints or nodes share."""
    return number in (view.nodes_of_identity if number >= FIRST_NODE else view.state.endpoints_of_identity)


def _allocate(draft: Draft, numbers: FreeNumbers, labels: tuple[str, ...]) -> int:
    number = numbers.next_free(draft.state)
    if number is None:
        raise Refusal(
            Code.EXHAUSTED,
            f"identities {numbers.first}-{numbers.last} are all in use ({numbers.taken}), none is free for "
            + ", ".join(labels),
        )
    draft.emit(pb.IdentityAllocated(identity=identity_to_pb(Identity(number, labels))))
    return number
