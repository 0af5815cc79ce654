"""Scenarios on the desired tables: steps, refusals, everything that can be an end of a probe."""

import re
from pathlib import Path
from typing import Any

from kilim.lab.run import matched, run_scenario
from kilim.lab.scenario import load_scenario, parse_scenario

README = Path(__file__).parents[3] / "README.md"

DENY_ALL = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: x}
spec: {podSelector: {}, policyTypes: [Ingress]}
"""
FROM_LATE = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "from-late", "namespace": "x"},
    "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "late"}}}]}]},
}
PORTS = [{"port": 80}]
LATE = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"namespace": "x", "name": "late", "labels": {"app": "late"}},
    "spec": {"nodeName": "node2", "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]},
}


def probe(source: str, target: str, expect: str, port: int = 80, protocol: str = "TCP") -> dict[str, Any]:
    return {"from": source, "to": target, "port": port, "protocol": protocol, "expect": expect}


async def play(*steps: dict[str, Any]) -> dict[str, Any]:
    value = {
        "kind": "Scenario",
        "nodes": 2,
        "namespaces": [{"name": "x"}],
        "pods": [{"name": name, "namespace": "x", "ports": PORTS} for name in ("a", "b")],
        "externals": [{"name": "web", "ip": "198.51.100.10", "ports": PORTS}],
        "steps": list(steps),
    }
    return await run_scenario(parse_scenario(value, "s"))


async def test_policies_and_pods_come_and_go() -> None:
    document = await play(
        {"probes": [probe("x/a", "x/b", "allow"), probe("x/a", "x/b", "error", 81)]},
        {"apply": [DENY_ALL], "probes": [probe("x/a", "x/b", "deny"), probe("x/a", "x/a", "allow")]},
        {"apply": [LATE, FROM_LATE], "probes": [probe("x/late", "x/a", "allow"), probe("x/b", "x/a", "deny")]},
        {"delete": [LATE], "probes": [probe("x/late", "x/a", "error")]},
        {"delete": [DENY_ALL, FROM_LATE], "probes": [probe("x/b", "x/a", "allow")]},
    )
    assert matched(document), document
    assert document["steps"][1]["probes"][0] == {
        **probe("x/a", "x/b", "deny"),
        "got": "deny",
        "drop_reason": "POLICY_DENIED",
    }


async def test_a_refused_manifest_is_reported_and_the_step_goes_on() -> None:
    bad = {**FROM_LATE, "spec": {"podSelector": {}, "ingres": []}}
    document = await play(
        {"apply": ["a: [", bad, {"kind": "Service"}, DENY_ALL], "probes": [probe("x/a", "x/b", "deny")]}
    )
    (step,) = document["steps"]
    assert list(step["refused"]) == ["0", "1", "2"]
    assert step["refused"]["0"].startswith("not YAML")
    assert "spec.ingres" in step["refused"]["1"]
    assert (step["matched"], step["total"]) == (1, 1)


async def test_every_kind_of_end() -> None:
    document = await play(
        {
            "apply": [DENY_ALL],
            "probes": [
                probe("ext:web", "x/a", "deny"),
                probe("x/a", "ext:web", "allow"),
                probe("node:node1", "x/b", "deny"),
                probe("remote-node", "x/a", "deny"),
                probe("x/a", "host", "allow", 9999),
                probe("x/a", "203.0.113.9", "allow"),
                probe("x/a", "svc:x/web", "error"),
                probe("x/a", "x/b", "deny", 8, "ICMP"),
            ],
        }
    )
    assert matched(document), document


async def test_the_scenario_of_the_readme(tmp_path: Path) -> None:
    block = re.search(r"^# cat shop.yaml\n(.*?)^# kilim lab run", README.read_text(), re.DOTALL | re.MULTILINE)
    assert block is not None
    (tmp_path / "shop.yaml").write_text(block[1])
    document = await run_scenario(load_scenario(tmp_path / "shop.yaml"))
    assert matched(document), document
    assert [step["total"] for step in document["steps"]] == [1]
