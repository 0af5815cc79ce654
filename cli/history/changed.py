"""What an event that replaces or removes something has changed of it, field by field.

Easy to get wrong: an addition has no fields here, it changed nothing of what was there. Elements of a list are matched
by what they are, so that a rule put before others is one change; each number in a path is a place in the new list,
for what went in the old one.
"""

import json
import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from kilim.cli.output import plain
from kilim.model.state import Change
from kilim.v1 import events_pb2 as pb

NOUNS: dict[str, Any] = {
    "node": pb.Node,
    "identity": pb.Identity,
    "endpoint": pb.Endpoint,
    "policy": pb.Policy,
    "namespace": pb.Namespace,
    "pod": pb.Pod,
    "setting": pb.Setting,
    "service": pb.Service,
    "endpoint_slice": pb.EndpointSlice,
}
NAMES = {"id", "kind", "namespace", "name"}  # what the event itself says
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class FieldChange(NamedTuple):
    """None: there was, or is, no such field."""

    field: str
    old: Any
    new: Any


def changed_fields(change: Change) -> list[FieldChange]:
    if change.old is None:
        return []
    old = _fields(change.table, change.old)
    if change.new is None:
        return [FieldChange(name, value, None) for name, value in old.items() if value]
    return list(differing("", old, _fields(change.table, change.new)))


def field_text(change: FieldChange) -> str:
    """`+ labels.app: web`, `- labels.app: web`, `spec.ingress[0].ports[0].port: 80 -> 81`."""
    field, old, new = change
    if old is None:
        return f"+ {field}: {_text(new)}"
    if new is None:
        return f"- {field}: {_text(old)}"
    return f"{field}: {_text(old)} -> {_text(new)}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _fields(table: str, data: bytes) -> dict[str, Any]:
    """Labels by their keys; of a policy what its manifest says."""
    fields = {name: value for name, value in plain(NOUNS[table].FromString(data)).items() if name not in NAMES}
    if table != "identity" and "labels" in fields:
        fields["labels"] = {label["key"]: label["value"] for label in fields["labels"]}
    manifest = fields.get("manifest")
    return manifest if isinstance(manifest, dict) else fields


def differing(path: str, old: Any, new: Any) -> Iterator[FieldChange]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differing(_below(path, key), old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and _has_parts(old + new):
        yield from _differing_elements(path, old, new)
    elif old != new:
        yield FieldChange(path, old, new)


def _has_parts(elements: list[Any]) -> bool:
    return any(isinstance(element, (dict, list)) for element in elements)


def _differing_elements(path: str, old: list[Any], new: list[Any]) -> Iterator[FieldChange]:
    texts = [[json.dumps(each, sort_keys=True) for each in side] for side in (old, new)]
    match = SequenceMatcher(None, texts[0], texts[1], autojunk=False)
    for kind, old_from, old_to, new_from, new_to in match.get_opcodes():
        if kind == "equal":
            continue
        if old_to - old_from == new_to - new_from:
            for index in range(new_to - new_from):
                yield from differing(f"{path}[{new_from + index}]", old[old_from + index], new[new_from + index])
            continue
        for index in range(old_from, old_to):
            yield FieldChange(f"{path}[{index}]", old[index], None)
        for index in range(new_from, new_to):
            yield FieldChange(f"{path}[{index}]", None, new[index])


def _below(path: str, key: str) -> str:
    if not _PLAIN_KEY.fullmatch(key):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key
