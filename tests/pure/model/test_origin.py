"""Where in its manifest each rule stands, as its origin prints it."""

import json
from typing import Any

import pytest

from kilim.model.compile import parts_as_written
from kilim.model.nouns import Policy

ALL: dict[str, Any] = {"endpointSelector": {}}
PASS_ALL = {"action": "Pass", "from": [{"namespaces": {}}]}
PASS_TO_ALL = {"action": "Pass", "to": [{"namespaces": {}}]}
CASES: list[tuple[str, str, dict[str, Any], list[str]]] = [
    (
        "NetworkPolicy", "shop",
        {"spec": {"ingress": [{}], "egress": [{}, {}]}},
        ["ingress[0]", "egress[0]", "egress[1]"],
    ),
    (
        "CiliumNetworkPolicy", "shop",
        {"spec": ALL | {"ingress": [{}, {}], "ingressDeny": [{}], "egress": [{}], "egressDeny": [{}]}},
        ["ingress[0]", "ingress[1]", "ingressDeny[0]", "egress[0]", "egressDeny[0]"],
    ),
    (
        "CiliumNetworkPolicy", "shop",
        {"spec": ALL | {"ingress": [{}]}, "specs": [ALL | {"egressDeny": [{}]}, ALL | {"egress": [{}, {}]}]},
        ["ingress[0]", "specs[0].egressDeny[0]", "specs[1].egress[0]", "specs[1].egress[1]"],
    ),
    ("CiliumClusterwideNetworkPolicy", "", {"specs": [ALL | {"ingressDeny": [{}]}]}, ["specs[0].ingressDeny[0]"]),
    (
        "ClusterNetworkPolicy", "",
        {
            "spec": {
                "tier": "Admin", "priority": 5, "subject": {"namespaces": {}},
                "ingress": [PASS_ALL, PASS_ALL], "egress": [PASS_TO_ALL],
            }
        },
        ["ingress[0]", "ingress[1]", "egress[0]"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "namespace", "manifest", "expected"), CASES)
def test_a_rule_knows_its_place(kind: str, namespace: str, manifest: dict[str, Any], expected: list[str]) -> None:
    parts = parts_as_written(Policy(kind, namespace, "db", json.dumps(manifest)))
    where = f"{namespace}/db" if namespace else "db"
    origins = [str(part.origin(rule)) for part in parts for rule in part.rules]
    assert origins == [f"{kind} {where} {each}" for each in expected]
