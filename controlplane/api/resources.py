"""Apply, delete and read: objects for users. Easy to get wrong: `kind` decides where a read looks (`shown.py`)."""

import json

from kilim.controlplane.api.limits import (
    MANIFEST_BYTES,
    MANIFESTS,
    TEXT_LENGTH,
    check_count,
    check_length,
    check_names,
)
from kilim.controlplane.api.shown import show, show_all
from kilim.controlplane.api.status import NOT_LOADED, Context, answering
from kilim.controlplane.decide.command import ApplyObjects, Command, DeleteObjects, Document, ObjectsChanged, Ref
from kilim.controlplane.decide.refusal import Code, Refusal, invalid
from kilim.controlplane.phases import PhasedWriter
from kilim.controlplane.replica import Replica
from kilim.controlplane.writer import Answer
from kilim.kvstore.errors import Unavailable
from kilim.model.invalid import Invalid
from kilim.model.resource import namespace_of, parse_manifest
from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import controlplane_pb2_grpc as rpc


class Resources(rpc.ResourcesServicer):
    def __init__(self, replica: Replica, writer: PhasedWriter) -> None:
        self._replica = replica
        self._writer = writer

    async def Apply(self, request: api.ApplyRequest, context: Context) -> api.ApplyResponse:
        async with answering(context):
            check_count("manifests", len(request.manifests), MANIFESTS)
            check_length("actor", request.actor, TEXT_LENGTH)
            command = ApplyObjects(tuple(_document(manifest) for manifest in request.manifests))
            answer = await self._do(command, request.actor, request.dry_run)
            return api.ApplyResponse(seq=answer.seq, results=_results(answer))

    async def Delete(self, request: api.DeleteRequest, context: Context) -> api.DeleteResponse:
        async with answering(context):
            check_count("refs", len(request.refs), MANIFESTS)
            check_length("actor", request.actor, TEXT_LENGTH)
            command = DeleteObjects(tuple(_ref(ref) for ref in request.refs), request.ignore_not_found)
            answer = await self._do(command, request.actor, request.dry_run)
            return api.DeleteResponse(seq=answer.seq, results=_results(answer))

    async def Get(self, request: api.GetRequest, context: Context) -> api.Resource:
        async with answering(context):
            self._check_loaded()
            namespace = namespace_of(request.kind, request.namespace)
            found = show(self._replica.state, request.kind, namespace, request.name)
            if found is None:
                where = f"{namespace}/{request.name}" if namespace else request.name
                raise Refusal(Code.NOT_FOUND, f"{request.kind} {where}: not found")
            return found

    async def List(self, request: api.ListRequest, context: Context) -> api.ListResponse:
        async with answering(context):
            self._check_loaded()
            items = show_all(self._replica.state, request.kind, request.namespace)
            return api.ListResponse(items=items, seq=self._replica.seq)

    async def _do(self, command: Command, actor: str, dry_run: bool) -> Answer:
        if dry_run:
            self._check_loaded()
            return await self._writer.preview(command)
        return await self._writer.submit(command, actor or "unknown")

    def _check_loaded(self) -> None:
        if not self._replica.loaded:
            raise Unavailable(NOT_LOADED)


def _document(manifest: api.Manifest) -> Document:
    check_length("manifest source", manifest.source, TEXT_LENGTH)
    try:
        check_length("manifest", manifest.json, MANIFEST_BYTES)
        return Document(parse_manifest(_decode(manifest.json)).noun, manifest.source)
    except Invalid as error:
        raise invalid(error.path or "manifest", error.rule).at(manifest.source) from error
    except Refusal as refusal:
        raise refusal.at(manifest.source) from refusal


def _decode(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid("manifest", f"is no JSON: {error}") from error


def _ref(ref: api.ResourceRef) -> Ref:
    check_names((("kind", ref.kind), ("namespace", ref.namespace), ("name", ref.name)))
    check_length("source", ref.source, TEXT_LENGTH)
    return Ref(ref.kind, namespace_of(ref.kind, ref.namespace), ref.name, ref.source)


def _results(answer: Answer) -> list[api.Applied]:
    assert isinstance(answer.result, ObjectsChanged)
    return [
        api.Applied(kind=each.kind, namespace=each.namespace, name=each.name, action=each.action)
        for each in answer.result.results
    ]
