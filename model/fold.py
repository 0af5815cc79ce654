"""Events to state. Total and deterministic (I1): any record folds, none raises; what makes no sense changes nothing.

0. A retired event is first put into the words of today (`upcast.py`).
1. A record that is no Event, or an Event without a body we know, changes nothing but the sequence number.
2. Joined, added, updated, replaced, labelled, allocated: the entry becomes what the event says.
3. Left, removed, released: the entry goes, if it is there.
"""

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from kilim.model.nouns import ips_or_zero
from kilim.model.state import Change, Key, State, endpoint_key, policy_key, setting_key
from kilim.model.upcast import UPCASTERS, upcast
from kilim.v1 import events_pb2 as pb

# body name -> (table, noun field of the body or None for a removal, key of the noun or body)
_Rule = tuple[str, str | None, Callable[[Any], Key]]


def _by_name(m: Any) -> Key:
    return str(m.name)


def _by_name_and_node(m: Any) -> Key:
    return setting_key(m.name, m.node)


def _by_id(m: Any) -> Key:
    return int(m.id)


def _by_namespace_and_name(m: Any) -> Key:
    return endpoint_key(m.namespace, m.name)


def _by_kind_namespace_and_name(m: Any) -> Key:
    return policy_key(m.kind, m.namespace, m.name)


RULES: dict[str, _Rule] = {
    "node_joined": ("node", "node", _by_name),
    "node_updated": ("node", "node", _by_name),
    "node_left": ("node", None, _by_name),
    "identity_allocated": ("identity", "identity", _by_id),
    "identity_released": ("identity", None, _by_id),
    "endpoint_added": ("endpoint", "endpoint", _by_namespace_and_name),
    "endpoint_updated": ("endpoint", "endpoint", _by_namespace_and_name),
    "endpoint_removed": ("endpoint", None, _by_namespace_and_name),
    "policy_replaced": ("policy", "policy", _by_kind_namespace_and_name),
    "policy_removed": ("policy", None, _by_kind_namespace_and_name),
    "namespace_labelled": ("namespace", "namespace", _by_name),
    "namespace_removed": ("namespace", None, _by_name),
    "pod_replaced": ("pod", "pod", _by_namespace_and_name),
    "pod_removed": ("pod", None, _by_namespace_and_name),
    "setting_changed": ("setting", "setting", _by_name_and_node),
    "service_replaced": ("service", "service", _by_namespace_and_name),
    "service_removed": ("service", None, _by_namespace_and_name),
    "endpoint_slice_replaced": ("endpoint_slice", "endpoint_slice", _by_namespace_and_name),
    "endpoint_slice_removed": ("endpoint_slice", None, _by_namespace_and_name),
}


def fold_record(state: State, seq: int, record: bytes) -> list[Change]:
    """Fold the record at `seq` into `state` (in place); returns what changed."""
    state.seq = seq
    try:
        event = pb.Event.FromString(record)
    except DecodeError:
        return []
    return fold_event(state, event)


def fold_event(state: State, event: pb.Event) -> list[Change]:
    """Fold one event without touching `state.seq`."""
    entry = entry_of(event)
    change = None if entry is None else state.put(*entry)
    return [] if change is None else [change]


def endpoint_of(event: pb.Event) -> pb.Endpoint | None:
    """What `entry_of` sets for an endpoint that is added or updated, without the work of making its bytes."""
    which = event.WhichOneof("body")
    if which == "endpoint_added":
        return event.endpoint_added.endpoint
    return event.endpoint_updated.endpoint if which == "endpoint_updated" else None


# (key, addresses, identity) of an endpoint event; of one that goes, none
EndpointNote = tuple[str, tuple[int, ...], int | None]


def note_of(event: pb.Event) -> EndpointNote | None:
    """What tells whether an endpoint event matters to somebody, in place of the event; None: it is another event."""
    if event.WhichOneof("body") == "endpoint_removed":
        removed = event.endpoint_removed
        return endpoint_key(removed.namespace, removed.name), (), None
    endpoint = endpoint_of(event)
    if endpoint is None:
        return None
    return endpoint_key(endpoint.namespace, endpoint.name), ips_or_zero(endpoint), endpoint.identity


def entry_of(event: pb.Event) -> tuple[str, Key, bytes | None] | None:
    """(table, key, value) that the event sets, with None for the value removes; None: it changes nothing."""
    if UPCASTERS:
        event = upcast(event)
    which = event.WhichOneof("body")
    rule = None if which is None else RULES.get(which)
    if which is None or rule is None:
        return None
    table, field, key_of = rule
    body = getattr(event, which)
    noun = body if field is None else getattr(body, field)
    value = None if field is None else noun.SerializeToString(deterministic=True)
    return table, key_of(noun), value
