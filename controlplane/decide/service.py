"""Services and EndpointSlices: kept as they were applied. With one, what the policies that refer to it say may change.

Easy to get wrong: then it is with them as if they had been replaced: addresses that they name now need an identity
before, nodes among these are told apart before (`as_if` says what will be so), and what none names any more goes after.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from google.protobuf.message import Message

from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.identity import identity_for_cidr
from kilim.controlplane.decide.view import View
from kilim.model.address import Cidr
from kilim.model.compile import named_cidrs
from kilim.model.nouns import EndpointSlice, Service, endpoint_slice_to_pb, service_to_pb
from kilim.model.policy_parts import PolicyChange
from kilim.model.state import Change, endpoint_key
from kilim.v1 import events_pb2 as pb

_Entry = tuple[str, str, bytes | None]  # of the state: table, key, value


def decide_service(draft: Draft, wanted: Service) -> tuple[str, Iterable[Cidr]]:
    """ "created", "configured" or "unchanged", and the CIDRs that policies used to name because of it."""
    before = draft.state.services.get(endpoint_key(wanted.namespace, wanted.name))
    if before == wanted:
        return "unchanged", ()
    dropped = _change(draft, entry_of(wanted), pb.ServiceReplaced(service=service_to_pb(wanted)))
    return "created" if before is None else "configured", dropped


def decide_remove_service(draft: Draft, namespace: str, name: str) -> tuple[bool, Iterable[Cidr]]:
    key = endpoint_key(namespace, name)
    if key not in draft.state.services:
        return False, ()
    return True, _change(draft, ("service", key, None), pb.ServiceRemoved(namespace=namespace, name=name))


def decide_endpoint_slice(draft: Draft, wanted: EndpointSlice) -> tuple[str, Iterable[Cidr]]:
    """ "created", "configured" or "unchanged", and the CIDRs that policies used to name because of it."""
    before = draft.state.endpoint_slices.get(endpoint_key(wanted.namespace, wanted.name))
    if before == wanted:
        return "unchanged", ()
    body = pb.EndpointSliceReplaced(endpoint_slice=endpoint_slice_to_pb(wanted))
    return "created" if before is None else "configured", _change(draft, entry_of(wanted), body)


def decide_remove_endpoint_slice(draft: Draft, namespace: str, name: str) -> tuple[bool, Iterable[Cidr]]:
    key = endpoint_key(namespace, name)
    if key not in draft.state.endpoint_slices:
        return False, ()
    body = pb.EndpointSliceRemoved(namespace=namespace, name=name)
    return True, _change(draft, ("endpoint_slice", key, None), body)


def entry_of(noun: Service | EndpointSlice) -> _Entry:
    key = endpoint_key(noun.namespace, noun.name)
    if isinstance(noun, Service):
        return "service", key, service_to_pb(noun).SerializeToString(deterministic=True)
    return "endpoint_slice", key, endpoint_slice_to_pb(noun).SerializeToString(deterministic=True)


@contextmanager
def as_if(view: View, entries: Iterable[_Entry]) -> Iterator[list[list[PolicyChange]]]:
    """Within, policies say (`View.parts_of`) what they will with these services and slices; nothing else follows them.
    Gives the policies that each changes."""
    done: list[Change] = []
    found: list[list[PolicyChange]] = []
    try:
        for entry in entries:
            change = view.state.put(*entry)
            found.append([] if change is None else view.policy_parts.follow(view.state, change))
            done += [] if change is None else [change]
        yield found
    finally:
        for change in reversed(done):
            view.state.undo((change,))
            view.policy_parts.follow(view.state, Change(change.table, change.key, change.new, change.old))


def _change(draft: Draft, entry: _Entry, body: Message) -> list[Cidr]:
    with as_if(draft.view, (entry,)) as (changed,):
        pass
    old = {cidr for each in changed if each.old for cidr in named_cidrs(each.old, each.old_parts)}
    new = {cidr for each in changed if each.new for cidr in named_cidrs(each.new, each.new_parts)}
    for cidr in sorted(new - old):
        identity_for_cidr(draft, cidr)
    draft.emit(body)
    return sorted(old - new)
