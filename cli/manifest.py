"""Manifests from files, directories and standard input, each with where it came from.

Only the YAML is judged here; what a document means is judged by the control plane, all documents at once.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilim.cli.failure import Failure
from kilim.cli.kinds import BY_NAME
from kilim.lab.yaml_documents import BadYaml, load_documents
from kilim.model.resource import KINDS

ENDINGS = (".yaml", ".yml", ".json")
STDIN = "-"


@dataclass(frozen=True, slots=True)
class Document:
    """One object; `source` reads "p.yaml: document 2"."""

    body: dict[str, Any]
    source: str

    @property
    def json(self) -> str:
        return json.dumps(self.body)


def read_documents(paths: Iterable[str], recursive: bool = False) -> list[Document]:
    """All documents of all the paths, in order; raises `Failure` at the first that is no YAML object. `recursive`: of
    folders in folders too."""
    documents = [document for path in paths for document in _read_path(path, recursive)]
    if not documents:
        raise Failure("no objects in what was given with -f")
    return documents


def in_namespace(documents: Iterable[Document], namespace: str | None) -> list[Document]:
    """`-n`: the namespace of objects that name none and may have one; those that name another are refused."""
    return [document if namespace is None else _put_into(document, namespace) for document in documents]


def _put_into(document: Document, namespace: str) -> Document:
    metadata, kind = document.body.get("metadata"), document.body.get("kind")
    known = BY_NAME.get(kind) if isinstance(kind, str) else None
    if not isinstance(metadata, dict) or (known is not None and not known.namespaced):
        return document
    named = metadata.get("namespace") or namespace
    if named != namespace:
        raise Failure(f'{document.source}: metadata.namespace: is "{named}", which -n {namespace} is not')
    return Document({**document.body, "metadata": {**metadata, "namespace": namespace}}, document.source)


def _read_path(path: str, recursive: bool) -> Iterator[Document]:
    if path == STDIN:
        yield from parse_documents(_text(sys.stdin.buffer.read(), "standard input"), "standard input")
        return
    try:
        files = _files(Path(path), recursive)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise Failure(f"{file}: {error.strerror}") from None
        yield from parse_documents(_text(content, str(file)), str(file))


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Failure(f"{name}: not UTF-8 at byte {error.start}") from None


def _files(path: Path, recursive: bool) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = path.rglob("*") if recursive else path.iterdir()
    files = sorted(file for file in found if file.suffix in ENDINGS and file.is_file())
    if not files:
        raise Failure(f"{path}: no file in it ends in {', '.join(ENDINGS)}")
    return files


def parse_documents(text: str, name: str) -> Iterator[Document]:
    """Empty documents count in the numbering and are left out; a List (NetworkPolicyList …) becomes its items."""
    try:
        for number, body in enumerate(load_documents(text), 1):
            if body is not None:
                yield from _objects(body, f"{name}: document {number}")
    except BadYaml as error:
        raise Failure(f"{name}: {error}") from None


def _objects(body: Any, source: str) -> Iterator[Document]:
    if not isinstance(body, dict):
        raise Failure(f"{source}: must be an object, is {_name_of(body)}")
    if not _is_list(body.get("kind")):
        try:
            json.dumps(body, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise Failure(f"{source}: cannot be said in JSON: {error}") from None
        yield Document(body, source)
        return
    items = [] if body.get("items", "") is None else body.get("items")  # as encoders write an empty list
    if not isinstance(items, list):
        raise Failure(f"{source}: items: must be a list")
    for index, item in enumerate(items):
        yield from _objects(item, f"{source}: items[{index}]")


def _is_list(kind: Any) -> bool:
    """As `kubectl get` prints one, or as the API server does (NetworkPolicyList)."""
    return kind == "List" or (isinstance(kind, str) and kind.removesuffix("List") in KINDS and kind not in KINDS)


def _name_of(value: Any) -> str:
    return {
        type(None): "null",
        str: "a string",
        list: "a list",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }.get(type(value), type(value).__name__)
