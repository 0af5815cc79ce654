"""Services and API servers as peers, on the desired tables; as packets in tests/lab/test_services.py."""

from itertools import pairwise

from kilim.lab.run import matched, run_scenario
from kilim.lab.scenario import parse_scenario
from tests.truth.services import services_scenario


async def test_services_as_peers() -> None:
    scenario = services_scenario()
    document = await run_scenario(parse_scenario(scenario, "services"))
    assert [step["refused"] for step in document["steps"]] == [{}] * len(scenario["steps"])
    wrong = [
        (number, probe)
        for number, step in enumerate(document["steps"])
        for probe in step["probes"]
        if probe["got"] != probe["expect"]
    ]
    assert wrong == [] and matched(document)
    allowed = [[probe["got"] == "allow" for probe in step["probes"]] for step in document["steps"]]
    assert sum(one != other for one, other in pairwise(allowed)) > len(allowed) * 2 / 3
