"""The NetworkPolicy cases of cyclonus, 256 clusters with 434 probes each, on the desired tables."""

import os
from collections import Counter
from pathlib import Path

import pytest

from kilim.lab.cases import Case, load_cases, scenario_of_case
from kilim.lab.run import run_scenario
from kilim.lab.scenario import parse_scenario

_BESIDE_THE_CHECKOUT = Path(__file__).parents[4] / "shared/policy-cases/policy_cases.json.xz"
FILE = Path(os.environ.get("KILIM_POLICY_CASES", _BESIDE_THE_CHECKOUT))


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    if not FILE.exists():
        pytest.skip(f"policy-cases: {FILE} is not there")
    return [case for case in load_cases(FILE) if case["kind"] == "knp"]


async def test_network_policy_cases(cases: list[Case]) -> None:
    wrong: Counter[str] = Counter()
    probes = 0
    for case in cases:
        document = await run_scenario(parse_scenario(scenario_of_case(case), case["name"]))
        (step,) = document["steps"]
        assert step["refused"] == {}, case["name"]
        probes += step["total"]
        for asked, answered in zip(case["probes"], step["probes"], strict=True):
            wrong[case["name"]] += answered["got"] != asked["expect"]
    assert probes > 100_000
    assert +wrong == Counter()
