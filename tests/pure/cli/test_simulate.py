"""`kilim simulate` on a small history: what a reader sees, to the letter, what it refuses, and its exit status."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kilim.cli.main import main
from kilim.controlplane.decide.command import ApplyObjects, Document
from kilim.controlplane.decide.simulate import state_after
from kilim.model.resource import parse_manifest
from tests.pure.cli.test_why import Snapshots, Story, story

ROOT = Path(__file__).resolve().parents[3]
FLOWS = Path(os.environ.get("KILIM_HUBBLE_FLOWS", ROOT.parent / "shared" / "hubble-flows" / "flows.jsonl"))

Simulate = Callable[..., Result]


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Simulate:
    def ask(told: Story, manifest: Any, *words: str) -> Result:
        monkeypatch.setattr("kilim.cli.simulate.open_history", lambda _: Snapshots(told.records))
        return CliRunner().invoke(main, ["simulate", "-f", "-", *words], input=json.dumps(manifest))

    return ask


def policy(name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "shop"}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def world() -> Story:
    """web, db, cache and api; all are closed, and db lets web in on 5432."""
    told = story()
    told.pod(1, "cache", 2)
    told.pod(2, "api", 3)
    return told


CLOSED_OFF = """\
networkpolicy.networking.k8s.io/db configured (simulated)
shop/web -> shop/db TCP 5432: allowed -> denied (NetworkPolicy shop/db)
shop/web -> shop/db TCP 5433: denied -> allowed (NetworkPolicy shop/db ingress[0])
2 verdicts would change
"""


def moved() -> dict[str, Any]:
    peer = {"podSelector": {"matchLabels": {"app": "web"}}}
    return policy(
        "db", podSelector={"matchLabels": {"app": "db"}}, ingress=[{"from": [peer], "ports": [{"port": 5433}]}]
    )


def test_a_rule_that_moves_to_another_port(simulate: Simulate) -> None:
    done = simulate(world(), moved())
    assert (done.exit_code, done.stdout) == (0, CLOSED_OFF), done.output
    assert simulate(world(), moved(), "--exit-code").exit_code == 1
    data = json.loads(simulate(world(), moved(), "-o", "json").stdout)
    assert data["changes"][0] == {
        "from": ["shop/web"], "to": ["shop/db"], "ports": [{"protocol": "TCP", "first": 5432, "last": 5432}],
        "before": "allowed", "after": "denied", "causes": ["NetworkPolicy shop/db"], "pairs": 1,
    }  # fmt: skip


def test_a_policy_that_would_go(simulate: Simulate) -> None:
    done = simulate(world(), policy("closed"), "--delete")
    assert done.stdout == (
        "networkpolicy.networking.k8s.io/closed deleted (simulated)\n"
        "shop/*, 0.0.0.0/0, remote-node -> shop/{web,cache,api} any port: denied -> allowed "
        "(without NetworkPolicy shop/closed)\n"
        "15 verdicts would change\n"
    )


def test_a_policy_that_closes_a_namespace_to_the_world(simulate: Simulate) -> None:
    """The block covers the addresses of pods and nodes, so they still reach each other."""
    told = world()
    block = {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.9.0.0/16"]}}
    done = simulate(told, policy("out", podSelector={}, policyTypes=["Egress"], egress=[{"to": [block]}]))
    *lines, count = done.stdout.splitlines()[1:]
    assert lines == ["shop/* -> 10.9.0.0/16 any port: allowed -> denied (NetworkPolicy shop/out)"]
    assert count == "4 verdicts would change"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_each_spec_of_a_policy_counts(simulate: Simulate, order: tuple[int, int]) -> None:
    specs = ({"endpointSelector": {"matchLabels": {"app": "nobody"}}}, {"endpointSelector": {}})
    manifest = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "closes", "namespace": "shop"},
        "specs": [{**specs[number], "egress": [{}]} for number in order],
    }
    done = simulate(world(), manifest)
    assert done.exit_code == 0
    assert "(CiliumNetworkPolicy shop/closes)" in done.stdout
    assert done.stdout.splitlines()[-1] != "no verdict would change"


def test_nothing_would_change(simulate: Simulate) -> None:
    done = simulate(world(), policy("closed", podSelector={}, policyTypes=["Ingress"]), "--exit-code")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == "no verdict would change"
    earlier = simulate(world(), policy("closed", podSelector={}, policyTypes=["Ingress"]), "--at", "6", "--exit-code")
    assert earlier.exit_code == 1


def test_the_state_stays_as_it_is() -> None:
    state = world().view.state
    before = state.digest
    noun = parse_manifest(moved()).noun
    after, results = state_after(state, ApplyObjects((Document(noun),)))
    assert (state.digest, results.results[0].action) == (before, "configured")
    assert after.policies["NetworkPolicy/shop/db"] == noun
    assert after.digest != before


def refused(done: Result, status: int) -> str:
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (status, "", 1)
    return done.stderr.strip()


def test_refusals_are_those_of_apply(simulate: Simulate) -> None:
    missing = policy("nope")
    assert refused(simulate(world(), missing, "--delete"), 1) == (
        "error: standard input: document 1: NetworkPolicy shop/nope: not found"
    )
    assert refused(simulate(world(), missing, "--delete", "--exit-code"), 2).endswith("not found")
    bad = policy("bad", podSelector=7)
    assert refused(simulate(world(), bad), 1).startswith("error: standard input: document 1: spec.podSelector: ")
    assert refused(simulate(world(), bad, "--pairs", "--against", "x"), 2) == "error: --pairs: goes without --against"
    assert refused(simulate(world(), moved(), "--against", "/nowhere"), 1) == (
        "error: /nowhere: No such file or directory"
    )


def flow(source: str, target: str, port: int, **more: Any) -> dict[str, Any]:
    ends = []
    for text in (source, target):
        name, _, ip = text.partition("@")
        namespace, _, pod = name.partition("/")
        ends.append(({"namespace": namespace, "pod_name": pod} if pod else {}, ip))
    (one, source_ip), (other, target_ip) = ends
    body = {"IP": {"source": source_ip, "destination": target_ip}, "l4": {"TCP": {"destination_port": port}}}
    return {"flow": {**body, "source": one, "destination": other, **more}}


def test_against_flows(simulate: Simulate, tmp_path: Path) -> None:
    lines = [
        *[flow("shop/web@10.0.1.2", "shop/db@10.0.2.2", 5432)] * 3,
        flow("shop/web@10.0.1.2", "shop/db@10.0.2.2", 5432, is_reply=True),
        flow("@10.0.1.2", "@10.0.2.2", 5433),
        flow("shop/web@10.0.1.2", "shop/db@10.0.2.2", 22),
        flow("shop/gone@10.0.1.77", "shop/db@10.0.2.2", 5432),
        flow("@fe80::1", "@ff02::2", 1),
        flow("@192.0.2.2", "shop/db@10.0.2.2", 5432),
        flow("shop/db@10.0.2.2", "@203.0.113.7", 443),
    ]
    path = tmp_path / "flows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = simulate(world(), moved(), "--against", str(path), "--exit-code")
    assert (done.exit_code, done.stdout) == (
        1,
        "networkpolicy.networking.k8s.io/db configured (simulated)\n"
        "shop/web -> shop/db TCP 5432: allowed -> denied (seen 3 times)\n"
        "10.0.1.2 -> 10.0.2.2 TCP 5433: denied -> allowed (seen once)\n"
        "2 of 7 flows would change; 2 could not be placed; left out: 1 replies, 0 others\n",
    )
    data = json.loads(simulate(world(), moved(), "--against", str(path), "-o", "json").stdout)
    assert (data["unplaced"], data["changes"][0]["seen"]) == (2, 3)
    path.write_text("{\n")
    assert refused(simulate(world(), moved(), "--against", str(path)), 1).startswith(f"error: {path}: line 1: no JSON")


def test_against_what_hubble_printed(simulate: Simulate) -> None:
    if not FLOWS.is_file():
        pytest.skip(f"the sample of flows is missing: {FLOWS} (set KILIM_HUBBLE_FLOWS)")
    data = json.loads(simulate(world(), moved(), "--against", str(FLOWS), "-o", "json").stdout)
    assert data["changes"] == []
    assert (data["flows"], data["replies"]) == (data["unplaced"], 8)
