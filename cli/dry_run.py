"""`kilim apply|delete --dry-run=client`: manifests judged here, without a server and without a state."""

from collections.abc import Iterable

from kilim.cli.failure import Failure
from kilim.cli.manifest import Document
from kilim.controlplane.decide.objects import DELETABLE_KINDS, object_names
from kilim.model.invalid import Invalid
from kilim.model.resource import parse_manifest
from kilim.v1 import controlplane_pb2 as pb


def checked_here(documents: Iterable[Document]) -> pb.ApplyResponse:
    """As a server would answer that holds none of them; what depends on the state is not judged."""
    return pb.ApplyResponse(results=[_checked(document) for document in documents])


def deleted_here(refs: Iterable[pb.ResourceRef]) -> pb.DeleteResponse:
    """As a server would answer that holds all of them."""
    return pb.DeleteResponse(results=[_deleted(ref) for ref in refs])


def _deleted(ref: pb.ResourceRef) -> pb.Applied:
    if ref.kind not in DELETABLE_KINDS:
        where = f"{ref.source}: " if ref.source else ""
        raise Failure(f"{where}kind: {ref.kind!r} must be one of {', '.join(DELETABLE_KINDS)}")
    return pb.Applied(kind=ref.kind, namespace=ref.namespace, name=ref.name, action="deleted")


def _checked(document: Document) -> pb.Applied:
    try:
        noun = parse_manifest(document.body).noun
    except Invalid as error:
        raise Failure(f"{document.source}: {error.path or 'manifest'}: {error.rule}") from None
    kind, namespace, name = object_names(noun)
    return pb.Applied(kind=kind, namespace=namespace, name=name, action="created")
