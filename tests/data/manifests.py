"""The corpora of manifests: what must be refused, with its one line, and what must be accepted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

FOLDER = Path(__file__).parent
Object = dict[str, Any]


class Broken(NamedTuple):
    """`path` begins what is said of the object, `rule` stands in it."""

    object: Object
    path: str
    rule: str


class BrokenText(NamedTuple):
    text: str
    line: str


def broken_objects() -> Iterator[Broken]:
    for file in sorted((FOLDER / "invalid").glob("*.yaml")):
        data = yaml.safe_load(file.read_text())
        for case in data["cases"]:
            if "text" not in case:
                body = case["object"] if "object" in case else {**data["base"], "spec": case["spec"]}
                yield Broken(body, case["path"], case["rule"])


def broken_texts() -> Iterator[BrokenText]:
    for case in yaml.safe_load((FOLDER / "invalid/texts.yaml").read_text())["cases"]:
        yield BrokenText(case["text"], case["line"])


def valid_objects() -> Iterator[Object]:
    for file in sorted((FOLDER / "valid").glob("*.yaml")):
        data = yaml.safe_load(file.read_text())
        yield from ({**data["base"], "spec": spec} for spec in data["specs"])
        yield from data["objects"]
