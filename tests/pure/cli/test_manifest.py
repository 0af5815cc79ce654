"""Reading YAML: numbering of documents, lists, directories, and one line for each thing that can be wrong."""

import json
from pathlib import Path

import pytest

from kilim.cli.failure import Failure
from kilim.cli.manifest import in_namespace, parse_documents, read_documents

BOMB = "a0: &a0 [lol]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(30))
MERGE_BOMB = "a0: &a0 {x: lol}\n" + "".join(
    f"a{n + 1}: &a{n + 1} {{<<: [{', '.join([f'*a{n}'] * 9)}]}}\n" for n in range(30)
)
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}]\n" for n in range(5000))


def parsed(text: str) -> list[tuple[object, str]]:
    return [(json.loads(document.json), document.source) for document in parse_documents(text, "p.yaml")]


def test_empty_documents_count_but_give_nothing() -> None:
    text = "kind: A\n---\n# nothing\n---\nkind: B\n"
    assert parsed(text) == [({"kind": "A"}, "p.yaml: document 1"), ({"kind": "B"}, "p.yaml: document 3")]


def test_json_is_yaml() -> None:
    assert parsed('{"kind": "Pod", "n": 1}') == [({"kind": "Pod", "n": 1}, "p.yaml: document 1")]


def test_a_list_becomes_its_items() -> None:
    text = "kind: List\nitems: [{kind: A}, {kind: B}]"
    assert [source for _, source in parsed(text)] == ["p.yaml: document 1: items[0]", "p.yaml: document 1: items[1]"]
    assert len(parsed("kind: NetworkPolicyList\nitems: [{kind: A}, {kind: B}]")) == 2
    assert parsed("kind: List\nitems: null") == []


def test_a_date_stays_text_and_merge_keys_work() -> None:
    assert parsed("a: 2020-01-01") == [({"a": "2020-01-01"}, "p.yaml: document 1")]
    assert parsed("a: &a {x: 1}\nb: {<<: *a, y: 2}")[0][0] == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n---\nb: [1,\n", "p.yaml: document 2: line 4: did not find expected node content"),
        ("a: 1\n---\nb: 1\nb: 2\n", 'p.yaml: document 2: line 4: key "b" twice'),
        ("- 1", "p.yaml: document 1: must be an object, is a list"),
        ("hello", "p.yaml: document 1: must be an object, is a string"),
        ("kind: List\nitems: {}", "p.yaml: document 1: items: must be a list"),
        ("kind: List\nitems: [{kind: A}, 3]", "p.yaml: document 1: items[1]: must be an object, is a number"),
        ("a: *nobody", "p.yaml: document 1: line 1: found undefined alias"),
        ("? [a]\n: 1", "p.yaml: document 1: line 1: a key must be a string"),
        ("a: &a {b: *a}", "p.yaml: document 1: line 1: an alias within what it names"),
        ("a: &a {<<: *a}", "p.yaml: document 1: line 1: an alias within what it names"),
        ("kind: A\n---\n" + BOMB, "p.yaml: document 2: line 10: expands to more than 16777216 characters"),
        (MERGE_BOMB, "p.yaml: document 1: line 8: expands to more than 16777216 characters"),
        ("a: " + "[" * 100_000, "p.yaml: document 1: line 1: nested deeper than 100"),
        ("- " * 100_000 + "a", "p.yaml: document 1: line 1: nested deeper than 100"),
        (CHAIN, "p.yaml: document 1: line 100: nested deeper than 100"),
        ("a: !!bool x", "p.yaml: document 1: a value does not fit its tag"),
        ("a: !!timestamp x", "p.yaml: document 1: a value does not fit its tag"),
        ("kind: List\nitems: [null]", "p.yaml: document 1: items[0]: must be an object, is null"),
        ("a: .nan", "p.yaml: document 1: cannot be said in JSON: Out of range float values are not JSON compliant"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, message: str) -> None:
    with pytest.raises(Failure) as failure:
        parsed(text)
    assert failure.value.format_message() == message


def test_a_tag_that_makes_objects_is_refused() -> None:
    with pytest.raises(Failure, match="could not determine a constructor"):
        parsed("a: !!python/object/apply:os.system [id]")


def test_a_directory_gives_its_manifests_in_order(tmp_path: Path) -> None:
    for name in ("b.yml", "a.yaml", "c.json", "README.md"):
        (tmp_path / name).write_text("{kind: Pod}")
    assert [Path(d.source.partition(":")[0]).name for d in read_documents([str(tmp_path)])] == [
        "a.yaml", "b.yml", "c.json",
    ]  # fmt: skip


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "x.yaml"
    binary.write_bytes(b"a: \xff")
    for path, message in (
        (str(tmp_path / "none.yaml"), "No such file or directory"),
        (str(binary), "not UTF-8 at byte 3"),
        ("a" * 5000, "File name too long"),
    ):
        with pytest.raises(Failure, match=message):
            read_documents([path])
    with pytest.raises(Failure, match="no file in it ends in"):
        (tmp_path / "empty").mkdir()
        read_documents([str(tmp_path / "empty")])


def test_folders_in_folders_are_read_if_wanted(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.yaml", "sub/b.yaml"):
        (tmp_path / name).write_text("{kind: Namespace, metadata: {name: x}}")
    assert len(read_documents([str(tmp_path)])) == 1
    assert len(read_documents([str(tmp_path)], recursive=True)) == 2


def test_a_namespace_for_those_that_name_none() -> None:
    kinds = (
        ("NetworkPolicy", "{name: a}"),
        ("NetworkPolicy", "{name: b, namespace: shop}"),
        ("CiliumCIDRGroup", "{name: c}"),
    )
    text = "\n---\n".join(f"{{kind: {kind}, metadata: {metadata}}}" for kind, metadata in kinds)
    documents = list(parse_documents(text, "p"))
    put = [each.body["metadata"].get("namespace") for each in in_namespace(documents, "shop")]
    assert put == ["shop", "shop", None]
    assert in_namespace(documents, None) == documents
    with pytest.raises(Failure, match='p: document 2: metadata.namespace: is "shop", which -n other is not'):
        in_namespace(documents, "other")
