"""Nodes as peers, on the desired tables; as packets in tests/lab/test_nodes.py."""

from kilim.lab.run import matched, run_scenario
from kilim.lab.scenario import parse_scenario
from tests.truth.nodes import nodes_scenario


async def test_nodes_as_peers() -> None:
    document = await run_scenario(parse_scenario(nodes_scenario(), "nodes"))
    assert [step["refused"] for step in document["steps"]] == [{}] * 7
    wrong = [probe for step in document["steps"] for probe in step["probes"] if probe["got"] != probe["expect"]]
    assert wrong == [] and matched(document)
    got = {probe["got"] for step in document["steps"] for probe in step["probes"]}
    assert got >= {"allow", "deny"}
