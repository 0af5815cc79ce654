"""Namespaces: their labels are part of the identity of every endpoint in them.

Easy to get wrong: the namespace's own event comes last. A change of a large namespace takes several commits; cut off in
between, the repeated command still finds the namespace different and finishes the rest.
"""

from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.endpoint import namespace_labels, relabel_endpoint, with_name_label
from kilim.model.labels import LabelPairs
from kilim.model.nouns import Namespace, namespace_to_pb
from kilim.v1 import events_pb2 as pb


def decide_namespace(draft: Draft, wanted: Namespace) -> str:
    """ "created", "configured" or "unchanged"."""
    wanted = Namespace(wanted.name, with_name_label(wanted.name, wanted.labels))
    before = draft.state.namespaces.get(wanted.name)
    if before == wanted:
        return "unchanged"
    _relabel(draft, wanted.name, wanted.labels)
    draft.emit(pb.NamespaceLabelled(namespace=namespace_to_pb(wanted)))
    return "created" if before is None else "configured"


def decide_remove_namespace(draft: Draft, name: str) -> bool:
    """Its labels go; what is in it stays, in a namespace that has its name as its only label."""
    if name not in draft.state.namespaces:
        return False
    _relabel(draft, name, with_name_label(name, ()))
    draft.emit(pb.NamespaceRemoved(name=name))
    return True


def _relabel(draft: Draft, name: str, labels: LabelPairs) -> None:
    if labels == namespace_labels(draft.state, name):
        return
    for key in sorted(draft.view.endpoints_in.get(name, ())):
        relabel_endpoint(draft, draft.state.endpoints[key], labels)
