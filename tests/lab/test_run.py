"""Scenarios as packets; the desired tables alone must give the very same documents."""

import json
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import yaml

from kilim.lab.cases import load_cases, scenario_of_case
from kilim.lab.run import matched, run_files
from tests.policy_cases.ipv6 import in_ipv6
from tests.pure.lab.test_cases import FILE

SCENARIO = Path(__file__).parent / "everything.yaml"
CILIUM = Path(__file__).parent / "cilium.yaml"
SERVICES = Path(__file__).parent / "services.yaml"
ENFORCEMENT = Path(__file__).parent / "enforcement.yaml"
KILIM = Path(sys.executable).parent / "kilim"
SAMPLE = 24  # of the 256 cases: every kind of rule, a few seconds


async def played(paths: list[Path], model: bool) -> list[dict[str, Any]]:
    async with aclosing(run_files(paths, model)) as documents:  # type: ignore[type-var]
        return [document async for document in documents]


async def test_packets_and_tables_agree_on_everything_that_a_scenario_can_hold() -> None:
    (packets,) = await played([SCENARIO], model=False)
    (tables,) = await played([SCENARIO], model=True)
    assert matched(packets), packets
    assert packets == tables


async def test_the_same_in_ipv6_alone(tmp_path: Path) -> None:
    """Servers and agents speak IPv6, too."""
    path = tmp_path / "everything.json"
    path.write_text(json.dumps(in_ipv6(yaml.safe_load(SCENARIO.read_text()))))
    (packets,) = await played([path], model=False)
    (tables,) = await played([path], model=True)
    assert matched(packets), packets
    assert packets == tables


async def test_cilium_policies_as_packets_and_as_tables() -> None:
    for model in (False, True):
        (document,) = await played([CILIUM], model)
        assert matched(document), document


async def test_services_as_packets_and_as_tables() -> None:
    (packets,) = await played([SERVICES], model=False)
    (tables,) = await played([SERVICES], model=True)
    assert matched(packets), packets
    assert packets == tables


async def test_modes_of_enforcement_as_packets_and_as_tables() -> None:
    (packets,) = await played([ENFORCEMENT], model=False)
    (tables,) = await played([ENFORCEMENT], model=True)
    assert matched(packets), packets
    assert packets == tables
    assert packets["steps"][-1]["refused"].keys() == {"settings[2]", "settings[3]"}


async def test_policy_cases_as_packets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of them in IPv6."""
    if not FILE.exists():
        pytest.skip(f"policy-cases: {FILE} is not there")
    cases = [case for case in load_cases(FILE) if case["kind"] == "knp"]
    paths = []
    sample = [scenario_of_case(case, picked_only=True) for case in cases[:: len(cases) // SAMPLE]]
    for number, scenario in enumerate([*sample[::2], *map(in_ipv6, sample[1::2])]):
        paths.append(tmp_path / f"{number:03}.json")
        paths[-1].write_text(json.dumps(scenario))
    documents = await played(paths, model=False)
    assert [document["file"] for document in documents] == [str(path) for path in paths]
    with capsys.disabled():
        probes = sum(step["total"] for document in documents for step in document["steps"])
        print(f"\n  as packets: {len(documents)} of {len(cases)} policy cases, {probes} probes")
    assert [document["file"] for document in documents if not matched(document)] == []


def test_the_command_says_by_its_status_whether_all_was_as_expected(tmp_path: Path) -> None:
    wrong = {"from": "x/a", "to": "x/a", "port": 80, "expect": "deny"}
    pods = [{"name": "a", "namespace": "x", "ports": [{"port": 80}]}]
    scenario = {
        "kind": "Scenario",
        "nodes": 1,
        "namespaces": [{"name": "x"}],
        "pods": pods,
        "steps": [{"probes": [wrong]}],
    }
    (tmp_path / "s.json").write_text(json.dumps(scenario))
    run = subprocess.run([KILIM, "lab", "run", tmp_path / "s.json", "-o", "json"], capture_output=True, text=True)
    assert run.returncode == 1, run.stderr
    (step,) = json.loads(run.stdout)["steps"]
    assert step == {
        "probes": [{**wrong, "protocol": "TCP", "got": "allow", "drop_reason": None}],
        "refused": {},
        "matched": 0,
        "total": 1,
    }
    (tmp_path / "s.json").write_text(json.dumps({**scenario, "pod": []}))
    run = subprocess.run([KILIM, "lab", "run", tmp_path / "s.json"], capture_output=True, text=True)
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1 and f"{tmp_path}/s.json: pod: unknown field" in run.stderr
