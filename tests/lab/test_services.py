"""Services and API servers as peers, as packets: what comes, changes and goes with services and their slices."""

from kilim.lab.run import matched, run_scenario
from kilim.lab.scenario import parse_scenario
from tests.truth.services import services_scenario


async def test_services_as_peers() -> None:
    document = await run_scenario(parse_scenario(services_scenario(), "services"), model=False)
    assert all(step["refused"] == {} for step in document["steps"])
    wrong = [probe for step in document["steps"] for probe in step["probes"] if probe["got"] != probe["expect"]]
    assert wrong == [] and matched(document)
