"""Services and EndpointSlices: kept as they were applied."""

from kilim.controlplane.decide.draft import Draft
from kilim.model.nouns import EndpointSlice, Service, endpoint_slice_to_pb, service_to_pb
from kilim.model.state import endpoint_key
from kilim.v1 import events_pb2 as pb


def decide_service(draft: Draft, wanted: Service) -> str:
    """ "created", "configured" or "unchanged"."""
    before = draft.state.services.get(endpoint_key(wanted.namespace, wanted.name))
    if before == wanted:
        return "unchanged"
    draft.emit(pb.ServiceReplaced(service=service_to_pb(wanted)))
    return "created" if before is None else "configured"


def decide_remove_service(draft: Draft, namespace: str, name: str) -> bool:
    if endpoint_key(namespace, name) not in draft.state.services:
        return False
    draft.emit(pb.ServiceRemoved(namespace=namespace, name=name))
    return True


def decide_endpoint_slice(draft: Draft, wanted: EndpointSlice) -> str:
    """ "created", "configured" or "unchanged"."""
    before = draft.state.endpoint_slices.get(endpoint_key(wanted.namespace, wanted.name))
    if before == wanted:
        return "unchanged"
    draft.emit(pb.EndpointSliceReplaced(endpoint_slice=endpoint_slice_to_pb(wanted)))
    return "created" if before is None else "configured"


def decide_remove_endpoint_slice(draft: Draft, namespace: str, name: str) -> bool:
    if endpoint_key(namespace, name) not in draft.state.endpoint_slices:
        return False
    draft.emit(pb.EndpointSliceRemoved(namespace=namespace, name=name))
    return True
