"""Nodes as peers, as packets: what a node sends and gets under an identity of its own, and the pod's own node."""

import pytest

from kilim.lab.run import matched, run_scenario
from kilim.lab.scenario import parse_scenario
from tests.policy_cases.ipv6 import in_ipv6
from tests.truth.nodes import nodes_scenario


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
async def test_nodes_as_peers(family: str) -> None:
    scenario = nodes_scenario() if family == "IPv4" else in_ipv6(nodes_scenario())
    document = await run_scenario(parse_scenario(scenario, "nodes"), model=False)
    assert [step["refused"] for step in document["steps"]] == [{}] * 7
    wrong = [probe for step in document["steps"] for probe in step["probes"] if probe["got"] != probe["expect"]]
    assert wrong == [] and matched(document)
