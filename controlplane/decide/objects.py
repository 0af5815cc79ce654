"""Objects as people apply and delete them, several at once: all or none, each noun by its own room."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from kilim.controlplane.decide.cidr_groups import decide_cidr_group, decide_remove_cidr_group
from kilim.controlplane.decide.command import (
    ApplyObjects,
    DeleteObjects,
    Document,
    Object,
    ObjectResult,
    ObjectsChanged,
    Prepared,
    PreparePolicies,
    Ref,
)
from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.identity import release_unnamed
from kilim.controlplane.decide.membership import let_go_of_pods, unneeded_among
from kilim.controlplane.decide.namespace import decide_namespace, decide_remove_namespace
from kilim.controlplane.decide.node import decide_remove_node
from kilim.controlplane.decide.node_identity import let_go_of_nodes
from kilim.controlplane.decide.pod import decide_pod, decide_remove_pod
from kilim.controlplane.decide.policy import (
    POLICY_KINDS,
    announce_policy,
    decide_policy,
    decide_remove_policy,
    prepare_policy,
)
from kilim.controlplane.decide.refusal import Code, Refusal
from kilim.controlplane.decide.service import (
    as_if,
    decide_endpoint_slice,
    decide_remove_endpoint_slice,
    decide_remove_service,
    decide_service,
    entry_of,
)
from kilim.model.address import Cidr
from kilim.model.cidr_group import CIDR_GROUP
from kilim.model.nouns import EndpointSlice, Namespace, Pod, Policy, Service
from kilim.model.service import ENDPOINT_SLICE, SERVICE
from kilim.model.state import policy_key

DELETABLE_KINDS = (*POLICY_KINDS, CIDR_GROUP, SERVICE, ENDPOINT_SLICE, "Namespace", "Pod", "Node")


def decide_apply(draft: Draft, command: ApplyObjects) -> ObjectsChanged:
    results: list[ObjectResult] = []
    dropped: list[Cidr] = []
    _prepare(draft, command.documents)
    draft.preparations = len(draft.events)
    for document in command.documents:
        with _about(draft, document):
            action, gone = _apply(draft, document.object)
        dropped += gone
        results.append(ObjectResult(*object_names(document.object), action))
    return ObjectsChanged(tuple(results), _let_go(draft, dropped, command.keep_memberships))


def decide_prepare(draft: Draft, command: PreparePolicies) -> Prepared:
    return Prepared(_prepare(draft, command.documents, command.most))


def _prepare(draft: Draft, documents: Iterable[Document], most: int | None = None) -> bool:
    """For policies that come, and for those that say something else with the services that come."""
    wanted = [(each, each.object) for each in documents if isinstance(each.object, Policy)]
    replaced = {policy_key(*object_names(policy)) for _, policy in wanted}
    services = [(each, each.object) for each in documents if isinstance(each.object, Service | EndpointSlice)]
    with as_if(draft.view, (entry_of(noun) for _, noun in services)) as changed:
        touched = {
            change.key: (document, change.new)
            for (document, _), changes in zip(services, changed, strict=True)
            for change in changes
            if change.new is not None and change.key not in replaced
        }
        announced = [(each, announce_policy(draft, policy)) for each, policy in (*touched.values(), *wanted)]
    for document, terms in announced:
        with _about(draft, document):
            if not prepare_policy(draft, terms, most):
                return False
    return True


@contextmanager
def _about(draft: Draft, document: Document) -> Iterator[None]:
    """Events and refusals say which object they are about."""
    draft.cause = _called(*object_names(document.object))
    try:
        yield
    except Refusal as refusal:
        raise Refusal(refusal.code, f"{draft.cause}: {refusal.message}").at(document.source) from refusal


def decide_delete(draft: Draft, command: DeleteObjects) -> ObjectsChanged:
    results: list[ObjectResult] = []
    dropped: list[Cidr] = []
    for ref in command.refs:
        draft.cause = _called(ref.kind, ref.namespace, ref.name)
        found, gone = _delete(draft, ref)
        if not found and not command.ignore_not_found:
            raise Refusal(Code.NOT_FOUND, f"{draft.cause}: not found").at(ref.source)
        dropped += gone
        results.append(ObjectResult(ref.kind, ref.namespace, ref.name, "deleted" if found else "not found"))
    return ObjectsChanged(tuple(results), _let_go(draft, dropped, command.keep_memberships))


def _let_go(draft: Draft, cidrs: list[Cidr], keep_memberships: bool) -> tuple[Cidr, ...]:
    """What policies have ceased to name, unless others name it. What of it is kept."""
    release_unnamed(draft, cidrs)
    if keep_memberships:
        return unneeded_among(draft.view, cidrs)
    let_go_of_pods(draft, cidrs)
    let_go_of_nodes(draft)
    return ()


def object_names(noun: Object) -> tuple[str, str, str]:
    """(kind, namespace, name)"""
    match noun:
        case Policy():
            return noun.kind, noun.namespace, noun.name
        case Namespace():
            return "Namespace", "", noun.name
        case Pod():
            return "Pod", noun.namespace, noun.name
        case Service():
            return SERVICE, noun.namespace, noun.name
        case EndpointSlice():
            return ENDPOINT_SLICE, noun.namespace, noun.name


def _called(kind: str, namespace: str, name: str) -> str:
    return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"


def _apply(draft: Draft, noun: Object) -> tuple[str, Iterable[Cidr]]:
    match noun:
        case Policy() if noun.kind == CIDR_GROUP:
            return decide_cidr_group(draft, noun)
        case Policy():
            return decide_policy(draft, noun)
        case Namespace():
            return decide_namespace(draft, noun), ()
        case Pod():
            return decide_pod(draft, noun), ()
        case Service():
            return decide_service(draft, noun)
        case EndpointSlice():
            return decide_endpoint_slice(draft, noun)


def _delete(draft: Draft, ref: Ref) -> tuple[bool, Iterable[Cidr]]:
    match ref.kind:
        case "Namespace":
            return decide_remove_namespace(draft, ref.name), ()
        case "Pod":
            return decide_remove_pod(draft, ref.namespace, ref.name), ()
        case "Node":
            return decide_remove_node(draft, ref.name), ()
        case "Service":
            return decide_remove_service(draft, ref.namespace, ref.name)
        case "EndpointSlice":
            return decide_remove_endpoint_slice(draft, ref.namespace, ref.name)
        case kind if kind == CIDR_GROUP:
            return decide_remove_cidr_group(draft, ref.name)
        case kind if kind in POLICY_KINDS:
            return decide_remove_policy(draft, kind, ref.namespace, ref.name)
        case kind:
            rule = f"must be one of {', '.join(DELETABLE_KINDS)}"
            raise Refusal(Code.INVALID, f"kind: {kind!r} {rule}").at(ref.source)
