"""Scenario files: what the form means, and what each mistake says."""

from pathlib import Path
from typing import Any

import pytest

from kilim.lab.errors import BadInput
from kilim.lab.scenario import Namespace, load_scenario, parse_scenario
from kilim.lab.topology import NodePlan, Port

DESIGN = """
kind: Scenario
nodes: [{name: node1, podCIDRs: [10.61.1.0/24]}, {name: node2, podCIDRs: [10.61.2.0/24]}]
namespaces: [{name: x, labels: {team: x}}]
pods:
- {name: a, namespace: x, node: node1, ip: 10.61.1.3, serviceAccount: default, labels: {app: a},
   ports: [{port: 80, protocol: TCP, name: http}, {port: 53, protocol: UDP}]}
- {name: b, namespace: x}
- {name: c, namespace: x, ip: 10.61.2.9}
externals: [{name: web, ip: 198.51.100.10, dns: [api.example.com], ports: [{port: 80, protocol: TCP}]}]
services: []
steps:
- apply:
  - {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: x}, spec: {podSelector: {}}}
  - |
    apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {name: q, namespace: x}
  - "a: ["
  probes:
  - {from: x/a, to: x/b, port: 80, protocol: TCP, expect: allow}
  - {from: ext:web, to: 10.61.1.3, port: 80}
  - {from: host, to: x/a, port: 8, protocol: ICMP, expect: deny}
"""


def test_the_form_of_the_design(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(DESIGN)
    scenario = load_scenario(tmp_path / "s.yaml")
    assert [node.name for node in scenario.nodes] == ["node1", "node2"]
    a, b, c = scenario.pods
    assert (a.ip, a.ports) == ("10.61.1.3", (Port(80, "TCP", "http"), Port(53, "UDP", "")))
    assert (b.node, c.node) == ("node2", "node2"), "in turn where nothing is said; by address where one is given"
    assert scenario.externals[0].dns == ("api.example.com",)
    (step,) = scenario.steps
    assert [m.body and m.body["metadata"]["name"] for m in step.apply] == ["p", "q", None]
    assert step.apply[2].error.startswith("not YAML")
    assert [probe.expect for probe in step.probes] == ["allow", None, "deny"]
    assert step.probes[1].written == {"from": "ext:web", "to": "10.61.1.3", "port": 80, "protocol": "TCP"}


def test_nodes_as_a_number() -> None:
    nodes = parse_scenario({"kind": "Scenario", "nodes": 2}, "s").nodes
    assert nodes == (
        NodePlan("node1", ("10.61.1.0/24", "fd00:10:61:1::/64")),
        NodePlan("node2", ("10.61.2.0/24", "fd00:10:61:2::/64")),
    )


def _with(**changes: Any) -> dict[str, Any]:
    pod = {"name": "a", "namespace": "x"}
    return {"kind": "Scenario", "nodes": 2, "namespaces": [{"name": "x"}], "pods": [pod], "steps": [], **changes}


PROBE = {"from": "x/a", "to": "x/a", "port": 80}
POD = {"name": "a", "namespace": "x"}
MISTAKES: list[tuple[Any, str]] = [
    ([], "document: must be a mapping, not a list"),
    ({"kind": "Pod"}, "kind: must be one of Scenario, not 'Pod'"),
    (
        _with(node=2),
        "node: unknown field (known here: externals, ipFamilies, kind, namespaces, nodes, pods, services, steps)",
    ),
    (_with(nodes=0), "nodes: must be a number from 1 to 100, not 0"),
    (_with(nodes=True), "nodes: must be a list, not True"),
    (
        _with(nodes=[{"name": "n", "podCIDRs": ["10.0.0.1/8"]}]),
        "nodes[0].podCIDRs[0]: must be a CIDR, not '10.0.0.1/8'",
    ),
    (_with(pods=[{"name": "a"}]), "pods[0].namespace: is required"),
    (_with(pods=[{**POD, "node": "n"}]), "pods[0].node: no node 'n' in nodes"),
    (_with(pods=[{**POD, "ip": "1.2.3.4"}]), "pods[0].ip: 1.2.3.4 is in no node's podCIDRs"),
    (_with(pods=[{**POD, "ports": [{"port": 0}]}]), "pods[0].ports[0].port: must be a number from 1 to 65535, not 0"),
    (_with(pods=[{**POD, "labels": {"v": 1}}]), "pods[0].labels.v: must be a text, not 1 (quote it)"),
    (_with(pods=[POD] * 2), "pods: x/a is there 2 times"),
    (
        _with(steps=[{"probes": [{**PROBE, "expekt": "allow"}]}]),
        "steps[0].probes[0].expekt: unknown field (known here: expect, from, ipFamily, port, protocol, to)",
    ),
    (
        _with(steps=[{"probes": [{**PROBE, "to": "x/z"}]}]),
        "steps[0].probes[0].to: 'x/z' is no pod (namespace/name), ext:NAME, node:NAME or entity of this scenario",
    ),
    (
        _with(steps=[{"probes": [{**PROBE, "protocol": "tcp"}]}]),
        "steps[0].probes[0].protocol: must be one of TCP, UDP, SCTP, ICMP, not 'tcp'",
    ),
]


@pytest.mark.parametrize(("value", "message"), MISTAKES)
def test_a_mistake_is_one_line_with_file_field_and_rule(value: Any, message: str) -> None:
    with pytest.raises(BadInput) as raised:
        parse_scenario(value, "s.yaml")
    assert str(raised.value) == f"s.yaml: {message}"


def test_what_is_no_yaml_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("a: [\nb: {")
    for path, rule in ((tmp_path / "s.yaml", "not YAML"), (tmp_path / "t.yaml", "No such file")):
        with pytest.raises(BadInput) as raised:
            load_scenario(path)
        assert str(raised.value).startswith(f"{path}: {rule}")
        assert "\n" not in str(raised.value)


def test_metadata_that_is_no_mapping_is_left_to_the_control_plane() -> None:
    broken = {"apiVersion": "v1", "kind": "Pod", "metadata": "a"}
    assert parse_scenario(_with(steps=[{"apply": [broken]}]), "s").steps[0].apply[0].body == broken


def test_a_pod_that_a_step_applies_may_be_probed() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "x", "name": "late"}}
    scenario = parse_scenario(_with(steps=[{"apply": [pod], "probes": [{**PROBE, "to": "x/late"}]}]), "s")
    assert scenario.steps[0].probes[0].target == "x/late"


def test_a_namespace_that_only_pods_name_is_one_without_labels() -> None:
    pods = [{"name": name, "namespace": namespace} for name, namespace in (("a", "x"), ("a", "y"), ("b", "y"))]
    assert parse_scenario(_with(pods=pods), "s").namespaces == (Namespace("x", {}), Namespace("y", {}))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.yaml", "kind: A\nkind: B", 'not YAML: document 1: line 2: key "kind" twice'),
        ("s.yaml", "", "must hold one document, holds 0"),
        ("s.yaml", "kind: A\n---\nkind: B", "must hold one document, holds 2"),
        ("s.yaml", "[" * 100_000, "not YAML: document 1: line 1: nested deeper than 100"),
        ("s.json", "[" * 100_000, "not JSON: "),
        ("s.yaml", b"a: \xff", "not UTF-8 at byte 3"),
    ],
)
def test_a_file_that_is_no_scenario_is_refused_in_one_line(
    tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput) as raised:
        load_scenario(path)
    assert str(raised.value).startswith(f"{path}: {message}") and "\n" not in str(raised.value)
