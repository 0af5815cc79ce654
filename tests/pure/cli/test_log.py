"""`kilim log show`: which events, about what, and what each one changed, field by field."""

import json

import pytest

from kilim.cli.event import event_summary
from kilim.cli.failure import BadUsage
from kilim.cli.history.changed import FieldChange, changed_fields, differing, field_text
from kilim.cli.history.entries import entries, entry_data, entry_lines
from kilim.cli.history.objects import Named, is_about, parse_object
from kilim.model.fold import RULES
from kilim.model.state import Change
from kilim.v1 import events_pb2 as pb
from tests.pure.cli.held import HeldHistory, base_at, commits_of, event


def policy(spec: object, **labels: str) -> bytes:
    manifest = {"kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "x", "labels": labels}, "spec": spec}
    body = pb.Policy(kind="NetworkPolicy", namespace="x", name="p", manifest_json=json.dumps(manifest))
    return body.SerializeToString()


def rule(port: int) -> dict[str, object]:
    return {"ports": [{"port": port}]}


@pytest.mark.parametrize(
    ("old", "new", "texts"),
    [
        ({"ingress": [rule(1)]}, {"ingress": [rule(2)]}, ["spec.ingress[0].ports[0].port: 1 -> 2"]),
        (
            {"ingress": [rule(1), rule(2)]},
            {"ingress": [rule(9), rule(1), rule(2)]},
            ['+ spec.ingress[0]: {"ports": [{"port": 9}]}'],
        ),
        ({"ingress": [rule(1), rule(2)]}, {"ingress": [rule(2)]}, ['- spec.ingress[0]: {"ports": [{"port": 1}]}']),
        (
            {"podSelector": {"matchLabels": {"app": "a", "k8s.io/x": "1"}}},
            {"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Egress"]},
            [
                "spec.podSelector.matchLabels.app: a -> b",
                "- spec.podSelector.matchLabels[k8s.io/x]: 1",
                '+ spec.policyTypes: ["Egress"]',
            ],
        ),
        ({"policyTypes": ["Egress"]}, {"policyTypes": ["Egress", "Ingress"]},
         ['spec.policyTypes: ["Egress"] -> ["Egress", "Ingress"]']),
        ({"ingress": [rule(1)]}, {"ingress": []}, ['- spec.ingress[0]: {"ports": [{"port": 1}]}']),
        ({"ingress": []}, {}, ["- spec.ingress: []"]),
    ],
)  # fmt: skip
def test_a_policy_differs_by_paths_of_its_manifest(old: object, new: object, texts: list[str]) -> None:
    found = changed_fields(Change("policy", "NetworkPolicy/x/p", policy(old), policy(new)))
    assert [field_text(change) for change in found] == texts


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ({"spec": {"ingressDeny": [{}], "egress": [{}, {}]}}, "rules: 1 ingress deny, 2 egress"),
        ({"specs": [{"ingress": [{}]}, {"ingress": [{}], "egressDeny": [{}]}]}, "rules: 2 ingress, 1 egress deny"),
        ({"spec": {"ingress": [{}]}, "specs": [{"ingress": [{}]}]}, "rules: 2 ingress"),
        ({"spec": {"externalCIDRs": ["192.0.2.0/24", "198.51.100.0/24"]}}, "2 CIDRs"),
        ({"spec": {"podSelector": {}}}, "no rules"),
        ({"spec": {"ingress": []}}, "rules: 0 ingress"),
        ({"specs": 7}, "unreadable"),
        ([], "unreadable"),
    ],
)
def test_a_policy_is_counted_by_all_its_sections(manifest: object, said: str) -> None:
    body = pb.Policy(kind="CiliumNetworkPolicy", namespace="x", name="p", manifest_json=json.dumps(manifest))
    shown = event_summary(pb.Event(policy_replaced=pb.PolicyReplaced(policy=body)))
    assert shown == f"CiliumNetworkPolicy x/p ({said})"


def test_labels_come_and_go_by_key() -> None:
    old, new = policy({}, a="1", b="2"), policy({}, b="3", c="4")
    found = changed_fields(Change("policy", "NetworkPolicy/x/p", old, new))
    assert [field_text(change) for change in found] == [
        "- metadata.labels.a: 1",
        "metadata.labels.b: 2 -> 3",
        "+ metadata.labels.c: 4",
    ]
    pods = [
        pb.Pod(namespace="x", name="p", labels=[pb.Label(key=key, value="") for key in keys]).SerializeToString()
        for keys in ("ab", "bc")
    ]
    assert changed_fields(Change("pod", "x/p", *pods)) == [("labels.a", "", None), ("labels.c", None, "")]


def test_an_addition_changes_nothing_of_what_was_and_a_removal_all() -> None:
    endpoint = pb.Endpoint(namespace="x", name="a", node="n1", ip=0x0A000001, identity=256).SerializeToString()
    assert changed_fields(Change("endpoint", "x/a", None, endpoint)) == []
    assert changed_fields(Change("endpoint", "x/a", endpoint, None)) == [
        ("node", "n1", None),
        ("ip", "10.0.0.1", None),
        ("identity", 256, None),
    ]


def test_a_manifest_that_is_none_is_text() -> None:
    old = pb.Policy(kind="K", namespace="x", name="p", manifest_json="{").SerializeToString()
    assert changed_fields(Change("policy", "K/x/p", old, None)) == [FieldChange("manifest", "{", None)]
    deep = pb.Policy(kind="K", namespace="x", name="p", manifest_json="[" * 10**5).SerializeToString()
    assert len(changed_fields(Change("policy", "K/x/p", old, deep))) == 1


def test_equal_values_do_not_differ() -> None:
    assert list(differing("", {"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]})) == []


def test_every_event_is_about_something() -> None:
    for field in RULES:
        body = pb.Event.DESCRIPTOR.fields_by_name[field].message_type
        noun, _, _ = field.rpartition("_")
        names: dict[str, object] = {"id": 7} if noun == "identity" else {"name": "a"}
        has_namespace = noun in {"endpoint", "pod", "policy", "service", "endpoint_slice"}
        names |= {"namespace": "x"} if has_namespace else {}
        names |= {"kind": "NetworkPolicy"} if noun == "policy" else {}
        happened = pb.Event(**{field: {noun: names} if noun in body.fields_by_name else names})
        kind = {"policy": "networkpolicy", "endpoint_slice": "endpointslice"}.get(noun, noun)
        place = "7" if noun == "identity" else "x/a" if has_namespace else "a"
        assert is_about(happened, parse_object(f"{kind}/{place}")), field
        assert is_about(happened, parse_object(place)), field
        assert not is_about(happened, parse_object(f"{kind}/{place}b")), field


def test_an_event_is_about_its_cause() -> None:
    happened = pb.Event(cause="NetworkPolicy x/p", identity_allocated={"identity": {"id": 1 << 24}})
    assert is_about(happened, parse_object("x/p")) and is_about(happened, parse_object("netpol/x/p"))
    assert not is_about(happened, parse_object("pod/x/p")) and not is_about(happened, parse_object("p"))
    assert is_about(pb.Event(cause="node n1"), parse_object("node/n1"))
    for cause in ("", "node", "because of it", "identity without endpoints"):
        assert not is_about(pb.Event(cause=cause), parse_object("it"))


def test_objects_as_they_are_written() -> None:
    assert parse_object("shop/db") == Named("", "shop", "db")
    assert parse_object("netpol/shop/db") == Named("networkpolicy", "shop", "db")
    assert parse_object("ns/shop") == Named("namespace", "", "shop")
    assert parse_object("node1") == Named("", "", "node1")
    for text in ("", "a/", "/b", "a/b/c/d", "node/x/y", "cheese/x/y"):
        with pytest.raises(BadUsage):
            parse_object(text)


RECORDS = [
    event(1, namespace_labelled={"namespace": {"name": "x"}}),
    event(2, namespace_labelled={"namespace": {"name": "y"}}),
    event(3, namespace_labelled={"namespace": {"name": "x", "labels": [{"key": "a", "value": "1"}]}}),
    b"\xff\xff",
    event(5, namespace_removed={"name": "x"}),
]


def test_changes_are_made_from_the_state_before_the_first_event() -> None:
    commits = commits_of(RECORDS, 2)
    shown = list(entries(HeldHistory(commits), 3, 5, None, with_changes=True))
    assert [entry.changes for entry in shown] == [[("labels.a", None, "1")], [], [("labels", {"a": "1"}, None)]]
    assert shown[-1].chain == commits[-1].chain_after
    source = HeldHistory(commits[1:], [base_at(commits, 2)])
    assert [each[:2] + each[3:] for each in entries(source, 3, 5, None, with_changes=True)] == [
        each[:2] + each[3:] for each in shown
    ]
    assert [entry.seq for entry in entries(source, 3, 5, parse_object("ns/x"), with_changes=True)] == [3, 5]
    assert entry_data(shown[0])["changes"] == [{"field": "labels.a", "old": None, "new": "1"}]
    assert list(entry_lines(shown[0], wide=True))[1] == "          + labels.a: 1"


def test_the_table_asks_for_no_state() -> None:
    source = HeldHistory(commits_of(RECORDS, 2)[1:])
    assert [entry.changes for entry in entries(source, 3, 4, None, with_changes=False)] == [None, None]
    assert source.asked == [(3, 4)]


def test_without_a_state_before_changes_are_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    source = HeldHistory(commits_of(RECORDS, 2)[1:])
    assert [entry.changes for entry in entries(source, 3, 5, None, with_changes=True)] == [None, None, None]
    assert capsys.readouterr().err.startswith("warning: no state before event 3 is held")
