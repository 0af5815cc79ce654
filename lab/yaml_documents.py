"""YAML text to values, as manifests and scenarios are read: strict, and harmless whatever is in it.

1. A key given twice is an error, and a date, or 12:30, stays the text that it is in Kubernetes.
2. Nesting is limited while libyaml composes: it recurses in C, and a deep document would end the process.
3. Aliases are counted for what they stand for, before anything (`<<`, JSON) writes them out.
4. Most texts are plain, and read as such (`plain_yaml`); this is the slow way, for the rest and for what is wrong.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from kilim.lab.plain_yaml import NotPlain, TooManyNodes, read_plain

MAX_DEPTH = 100
MAX_NODES = 1_000_000  # keys, values, lists and objects of one text; refused before the rest of it is read
MAX_SIZE = 16 << 20  # nodes and characters, as much as the control plane takes in one request
TOO_MANY = f"more than {MAX_NODES} keys, values, lists and objects"


class BadYaml(ValueError):
    """One line: the number of the document, where known the line, and the rule."""


class _Loader(yaml.CSafeLoader):
    _depth = 0
    _nodes = 0

    def descend_resolver(self, parent: Any, index: Any) -> None:
        """Called before each node is composed; there is no path resolver to lose."""
        self._depth += 1
        self._nodes += 1
        if self._nodes > MAX_NODES:
            mark = None if parent is None else parent.start_mark
            raise yaml.MarkedYAMLError(problem=TOO_MANY, problem_mark=mark)
        if self._depth > MAX_DEPTH:
            mark = None if parent is None else parent.start_mark
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH}", problem_mark=mark)

    def ascend_resolver(self) -> None:
        self._depth -= 1

    def construct_document(self, node: yaml.Node) -> Any:
        _measure(node, {})
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a string", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f'key "{key.value}" twice', problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _WithoutColon:
    """Numbers of base 60 stay the text that they are in Kubernetes, whose decoder does not know them."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern

    def match(self, text: str) -> re.Match[str] | None:
        return None if ":" in text else self._pattern.match(text)


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, _WithoutColon(pattern)) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_RESOLVER = _Loader("")
_TEXT = "tag:yaml.org,2002:str"


def load_documents(text: str) -> Iterator[Any]:
    """The value of each document, None where it is empty. Raises `BadYaml`."""
    try:
        yield from read_plain(text, _scalar, MAX_DEPTH - 1, MAX_NODES)
    except TooManyNodes as error:
        raise BadYaml(f"document {error.document}: line {error.line}: {TOO_MANY}") from None
    except NotPlain:
        yield from _load_slowly(text)


def _scalar(text: str) -> Any:
    """What stands there without quotes and tag."""
    tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    if tag == _TEXT:
        return text
    try:
        return _RESOLVER.construct_object(yaml.ScalarNode(tag, text))
    except (yaml.YAMLError, ValueError):
        raise NotPlain from None


def _load_slowly(text: str) -> Iterator[Any]:
    number = 0
    try:
        loader = _Loader(text)
        try:
            while loader.check_data():  # type: ignore[no-untyped-call]
                number += 1
                yield loader.get_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}:" if mark else ""
        raise BadYaml(f"document {max(number, 1)}:{line} {error.problem or error.context}") from None
    except (KeyError, AttributeError, TypeError):  # what PyYAML lets through of `!!bool x` and `!!timestamp x`
        raise BadYaml(f"document {max(number, 1)}: a value does not fit its tag") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadYaml(f"document {max(number, 1)}: {' '.join(str(error).split())}") from None


def _measure(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """(size, height), every alias written out. Aliases name what ended before them: we go no deeper than the text."""
    if id(node) in known:
        measured = known[id(node)]
        if measured is None:
            raise yaml.MarkedYAMLError(problem="an alias within what it names", problem_mark=node.start_mark)
        return measured
    known[id(node)] = None
    size, height = 1, 1
    if isinstance(node, yaml.ScalarNode):
        size += len(node.value)
    else:
        for child in node.value:
            for part in child if isinstance(child, tuple) else (child,):
                more, below = _measure(part, known)
                size, height = size + more, max(height, below + 1)
    if size > MAX_SIZE:
        raise yaml.MarkedYAMLError(problem=f"expands to more than {MAX_SIZE} characters", problem_mark=node.start_mark)
    if height > MAX_DEPTH:
        raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH}", problem_mark=node.start_mark)
    known[id(node)] = size, height
    return size, height
