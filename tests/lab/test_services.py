"""Services and API servers as peers, as packets: what comes, changes and goes with services and their slices."""

import pytest

from kilim.lab.run import matched, run_scenario
from kilim.lab.scenario import parse_scenario
from tests.policy_cases.ipv6 import in_ipv6
from tests.truth.services import services_scenario


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
async def test_services_as_peers(family: str) -> None:
    scenario = services_scenario() if family == "IPv4" else in_ipv6(services_scenario())
    document = await run_scenario(parse_scenario(scenario, "services"), model=False)
    assert all(step["refused"] == {} for step in document["steps"])
    wrong = [probe for step in document["steps"] for probe in step["probes"] if probe["got"] != probe["expect"]]
    assert wrong == [] and matched(document)
