"""Every truth table on the desired tables alone."""

import pytest

from kilim.lab.run import matched, run_scenario
from kilim.lab.scenario import parse_scenario
from kilim.model.resource import KINDS
from tests.truth.tables import kinds_of, truth_tables


async def test_every_truth_table(capsys: pytest.CaptureFixture[str]) -> None:
    tables = list(truth_tables())
    played = probes = 0
    wrong = {}
    for name, scenario in tables:
        if not kinds_of(scenario) <= KINDS.keys():
            continue
        document = await run_scenario(parse_scenario(scenario, name))
        played += 1
        probes += sum(step["total"] for step in document["steps"])
        refused = [step["refused"] for step in document["steps"] if step["refused"]]
        if refused or not matched(document):
            different = [p for step in document["steps"] for p in step["probes"] if p["got"] != p["expect"]]
            wrong[name] = (len(different), different[:1], refused)
    with capsys.disabled():
        print(f"\n{played} of {len(tables)} truth tables, {probes} probes")
    assert wrong == {}
    assert len(tables) > 120
