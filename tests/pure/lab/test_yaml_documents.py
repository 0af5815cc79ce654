"""The quick reader of plain YAML gives what the careful one gives, and leaves to it whatever is unusual or wrong."""

from pathlib import Path
from typing import Any

import pytest

from kilim.lab import yaml_documents
from kilim.lab.plain_yaml import NotPlain, read_plain
from kilim.lab.yaml_documents import MAX_DEPTH, MAX_NODES, BadYaml, load_documents

ROOT = Path(__file__).parents[3]
FILES = sorted(path for folder in ("tests/data", "lab/demo", "deploy") for path in (ROOT / folder).rglob("*.y*ml"))
ODD = (
    "", "---\n---\na: 1\n", "a", "- 1\n- [2, {b: c}]\n", "a: {}\nb: []\n", "{1: x, 01: y, true: z, ~: n, 1.5: f}",
    "a: 2020-01-01\nb: 0x1f\nc: 1_000\nd: .inf\ne: 12:30:45\nf: 'no'\ng: no\nh: \"1\"\ni: |\n  1\nj: >-\n  x\n  y\n",
    "[" * (MAX_DEPTH - 2) + "1" + "]" * (MAX_DEPTH - 2), "[" * (MAX_DEPTH - 1) + "1" + "]" * (MAX_DEPTH - 1),
)  # fmt: skip
LEFT = (
    "a: &x 1\nb: *x", "a: &x {b: 1}\nc: {<<: *x}", "a: !!str 1", "a: 1\na: 2", "{1: a, '1': b}", "? [a]\n: b", "a: [",
    "=: 1", "<<: 1", "[" * MAX_DEPTH + "]" * MAX_DEPTH,
)  # fmt: skip


def result(read: Any, text: str) -> Any:
    try:
        return list(read(text))
    except BadYaml as error:
        return str(error)


@pytest.mark.parametrize("text", [*ODD, *LEFT])
def test_both_ways_say_the_same(text: str) -> None:
    assert result(load_documents, text) == result(yaml_documents._load_slowly, text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_both_ways_read_every_file_of_ours_alike(path: Path) -> None:
    text = path.read_text(errors="replace")
    assert result(load_documents, text) == result(yaml_documents._load_slowly, text)


@pytest.mark.parametrize("text", LEFT)
def test_what_is_unusual_is_left_to_the_careful_way(text: str) -> None:
    with pytest.raises(NotPlain):
        read_plain(text, yaml_documents._scalar, MAX_DEPTH - 1, MAX_NODES)


@pytest.mark.parametrize("head", ["", "x: &x 1\n"])
def test_so_many_nodes_are_refused_before_the_rest_is_read(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_documents, "MAX_NODES", 20)
    text = f"{head}a:\n" + "- 1\n" * 30 + "]["
    with pytest.raises(
        BadYaml, match=f"^document 1: line [0-9]+: more than {MAX_NODES} keys, values, lists and objects$"
    ):
        list(load_documents(text))
