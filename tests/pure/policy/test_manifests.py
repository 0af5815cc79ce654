"""Broken manifests: one line each, with where and which rule; and what Kubernetes and Cilium accept is accepted."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from kilim.cli.failure import Failure
from kilim.cli.manifest import parse_documents
from kilim.model.invalid import Invalid
from kilim.model.resource import KINDS, parse_manifest
from tests.data.manifests import Broken, broken_objects, broken_texts, valid_objects

OTHER_KINDS = ("ClusterNetworkPolicy",)  # known as soon as the product knows them
LONGEST_LINE = 600
SIZE = 10 << 20
HEAD = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n"
BOMB = "a0: &a0 [lol]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(30))


def said(text: str) -> str:
    """What `kilim apply` would say of it; nothing where it would be applied."""
    try:
        for document in list(parse_documents(text, "f.yaml")):
            try:
                parse_manifest(json.loads(document.json))
            except Invalid as error:
                return f"{document.source}: {error}"
    except Failure as failure:
        return failure.format_message()
    return ""


def known(body: dict[str, Any]) -> bool:
    return body.get("kind") not in OTHER_KINDS or body.get("kind") in KINDS


def huge_texts() -> Iterator[tuple[str, str]]:
    """(text, rule): ten megabytes, very many nodes, or what would become either."""
    many = "podSelector: {}\n  ingress:\n" + "  - ports: [{port: 80}]\n" * 4000
    yield HEAD + "spec:\n  " + many + "  - ports: [{port: 0}]\n", "must be between 1 and 65535"
    yield HEAD + "spec: {podSelector: {matchLabels: {a: " + "x" * SIZE + "}}}\n", "must be no more than 63"
    yield HEAD + 'spec: {"' + "x" * SIZE + '": 1}\n', "did not find expected"
    yield HEAD + "spec: " + "{a: " * 200_000 + "}" * 200_000, "nested deeper than 100"
    yield HEAD + "spec: " + "[" * SIZE, "nested deeper than 100"
    yield HEAD + "---\n" + BOMB, "expands to more than"
    yield HEAD + "spec: &a {podSelector: *a}\n", "an alias within what it names"
    yield "kind: List\nitems: [" + "{}," * 50_000 + "]\n", "kind: Required value"
    yield "%" * SIZE, "f.yaml: document 1"


@pytest.mark.parametrize("broken", [b for b in broken_objects() if known(b.object)], ids=lambda b: b.path)
def test_a_broken_object_is_one_line_with_path_and_rule(broken: Broken) -> None:
    line = said(json.dumps(broken.object))
    assert line.startswith(f"f.yaml: document 1: {broken.path}: "), line
    assert broken.rule in line
    assert "\n" not in line and len(line) < LONGEST_LINE


@pytest.mark.parametrize(("text", "line"), list(broken_texts()))
def test_a_broken_text_is_one_line(text: str, line: str) -> None:
    assert said(text) == line


@pytest.mark.parametrize(("text", "rule"), list(huge_texts()), ids=lambda value: value[-20:])
def test_what_is_huge_is_one_line_too(text: str, rule: str) -> None:
    line = said(text)
    assert rule in line
    assert "\n" not in line and len(line) < LONGEST_LINE


def test_there_are_more_than_a_hundred_of_them() -> None:
    everything = [json.dumps(broken.object) for broken in broken_objects()] + [b.text for b in broken_texts()]
    assert len(everything) == len(set(everything)) > 200


LABELLED = (
    HEAD + "spec: {podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]}\n"
)


@pytest.mark.parametrize(
    "text",
    [
        LABELLED,
        LABELLED.replace("\n", "\r\n"),
        "\ufeff" + LABELLED,
        "---\n# nothing\n---\n" + LABELLED + "---\nnull\n",
        "%YAML 1.1\n---\n" + LABELLED,
        HEAD + "spec: {podSelector: &s {matchLabels: {app: a}}, ingress: [{from: [{podSelector: *s}]}]}\n",
        HEAD + "spec: {podSelector: {matchLabels: &l {app: a}}, ingress: [{from: [{podSelector: {matchLabels: *l}}]}]}",
        LABELLED.replace(
            "{podSelector: {matchLabels: {app: a}},",
            "{podSelector: {<<: {matchLabels: {app: b}}, matchLabels: {app: a}},",
        ),
        "kind: List\nitems:\n- " + LABELLED.replace("\n", "\n  "),
    ],
)
def test_what_yaml_can_say_in_other_words_is_the_same(text: str) -> None:
    (written,), (wanted,) = (list(parse_documents(each, "f.yaml")) for each in (text, LABELLED))
    assert parse_manifest(json.loads(written.json)) == parse_manifest(json.loads(wanted.json))


@pytest.mark.parametrize("body", [body for body in valid_objects() if known(body)], ids=json.dumps)
def test_what_their_own_validation_accepts_is_accepted(body: dict[str, Any]) -> None:
    assert said(json.dumps(body)) == ""
