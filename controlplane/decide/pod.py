"""Pods: the source of labels, service account and named ports of the endpoint of the same name."""

from dataclasses import replace

from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.endpoint import namespace_labels, relabel_endpoint
from kilim.model.nouns import Pod, pod_to_pb
from kilim.model.state import endpoint_key
from kilim.v1 import events_pb2 as pb


def decide_pod(draft: Draft, wanted: Pod) -> str:
    """ "created", "configured" or "unchanged"."""
    wanted = replace(wanted, labels=tuple(sorted(wanted.labels)), named_ports=tuple(sorted(wanted.named_ports)))
    key = endpoint_key(wanted.namespace, wanted.name)
    before = draft.state.pods.get(key)
    if before == wanted:
        return "unchanged"
    draft.emit(pb.PodReplaced(pod=pod_to_pb(wanted)))
    endpoint = draft.state.endpoints.get(key)
    if endpoint is not None:
        relabel_endpoint(draft, endpoint, namespace_labels(draft.state, wanted.namespace))
    return "created" if before is None else "configured"


def decide_remove_pod(draft: Draft, namespace: str, name: str) -> bool:
    """An endpoint of that name keeps what the object gave it until its container goes."""
    if endpoint_key(namespace, name) not in draft.state.pods:
        return False
    draft.emit(pb.PodRemoved(namespace=namespace, name=name))
    return True
