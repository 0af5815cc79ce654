"""Documents of plain YAML, straight from libyaml's events to values: a third of the time that composing nodes takes.

Easy to get wrong: whatever is unusual or wrong (anchors, tags, `<<`, a key twice, deep nesting) raises `NotPlain`, and
`yaml_documents` reads the text again, slowly, and finds the words for it. So both must give the same for the rest.
"""

from collections.abc import Callable
from typing import Any

import yaml


class NotPlain(Exception):
    """To be read by the careful way."""


class TooManyNodes(Exception):
    """`document` from 1, `line` from 1."""

    def __init__(self, document: int, line: int) -> None:
        self.document, self.line = document, line


def read_plain(text: str, scalar: Callable[[str], Any], max_depth: int, max_nodes: int) -> list[Any]:
    """The value of each document, None where it is empty. `scalar`: what a plain one means; it may raise NotPlain."""
    reader = _Reader(scalar, max_depth)
    parser = yaml.CSafeLoader(text)
    documents: list[Any] = []
    nodes = number = 0
    try:
        while True:
            event = parser.get_event()
            match event:
                case yaml.ScalarEvent() | yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                    nodes += 1
                    if nodes > max_nodes:
                        raise TooManyNodes(number, event.start_mark.line + 1 if event.start_mark else 0)
                    reader.begin(event)
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    reader.end()
                case yaml.DocumentStartEvent():
                    number += 1
                case yaml.DocumentEndEvent():
                    documents.append(reader.root)
                case yaml.StreamEndEvent():
                    return documents
                case yaml.AliasEvent():
                    raise NotPlain
    except yaml.YAMLError:
        raise NotPlain from None
    finally:
        parser.dispose()


class _Reader:
    """One document after the other; `_open` are the collections that are not at their end, the innermost last."""

    def __init__(self, scalar: Callable[[str], Any], max_depth: int) -> None:
        self.root: Any = None
        self._scalar = scalar
        self._known: dict[str, Any] = {}  # plain scalars repeat
        self._max_depth = max_depth
        self._open: list[tuple[Any, set[str] | None]] = []  # the set: texts of a mapping's keys
        self._keys: list[Any] = []  # of each open mapping, NONE until its key has come

    def begin(self, event: Any) -> None:
        if event.anchor is not None or event.tag is not None or len(self._open) >= self._max_depth:
            raise NotPlain
        if isinstance(event, yaml.ScalarEvent):
            self._add(event.value, self._value(event) if event.implicit[0] else event.value)
            return
        made: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._add(None, made)
        self._open.append((made, set() if isinstance(made, dict) else None))
        self._keys.append(NONE)

    def end(self) -> None:
        self._open.pop()
        self._keys.pop()

    def _value(self, event: Any) -> Any:
        text = event.value
        if text not in self._known:
            self._known[text] = self._scalar(text)
        return self._known[text]

    def _add(self, text: str | None, value: Any) -> None:
        if not self._open:
            self.root = value
            return
        holder, texts = self._open[-1]
        if texts is None:
            holder.append(value)
        elif self._keys[-1] is not NONE:
            holder[self._keys[-1]] = value
            self._keys[-1] = NONE
        elif text is None or text in texts:  # a collection as a key, or a key twice
            raise NotPlain
        else:
            texts.add(text)
            self._keys[-1] = value


NONE = object()
