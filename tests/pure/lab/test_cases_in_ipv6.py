"""A sample of the policy cases with every address as one of IPv6; all of them: `make policy-cases PART=cases-ipv6`."""

import pytest

from kilim.lab.run import matched, run_scenario
from kilim.lab.scenario import parse_scenario
from tests.policy_cases.ipv6 import in_ipv6
from tests.policy_cases.scenarios import all_cases, scenario
from tests.pure.lab.test_cases import FILE

EVERY = 7


def test_addresses_and_what_says_a_family() -> None:
    assert in_ipv6(["10.61.1.3", "10.0.0.0/8", "0.0.0.0/0 ::/0", "world-ipv4", "1.2.3.4.5"]) == [
        "2001:db8::a3d:103",
        "2001:db8::a00:0/104",
        "::/0 0.0.0.0/0",
        "world-ipv6",
        "1.2.3.4.5",
    ]
    assert in_ipv6({"fields": [{"type": 8}]}) == {"fields": [{"family": "IPv6", "type": 128}]}


async def test_verdicts_are_those_of_ipv4() -> None:
    if not FILE.exists():
        pytest.skip(f"policy-cases: {FILE} is not there")
    cases = all_cases()[::EVERY]
    for case in cases:
        document = await run_scenario(parse_scenario(in_ipv6(scenario(case)), case["name"]))
        assert matched(document) and not any(step["refused"] for step in document["steps"]), case["name"]
    assert len(cases) >= 50
