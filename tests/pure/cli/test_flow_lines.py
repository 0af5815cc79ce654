"""Lines of flows as Hubble writes them: what is counted as a flow, what is left out, and what is an error."""

import json

import pytest

from kilim.cli.failure import Failure
from kilim.cli.flow_lines import read_flows


def line(l4: object, **more: object) -> str:
    flow = {"IP": {"source": "10.244.0.3", "destination": "10.244.1.4"}, "source": {}, "destination": {}, "l4": l4}
    return json.dumps({"flow": {**flow, **more}})


def test_the_same_flow_is_counted() -> None:
    seen = read_flows([line({"TCP": {"source_port": 40000, "destination_port": 80}})] * 2 + [""], "f")
    ((flow, count),) = seen.flows.items()
    assert (flow.protocol, flow.port, count, seen.replies, seen.others) == (6, 80, 2, 0, 0)


def test_replies_are_no_flows_of_their_own() -> None:
    seen = read_flows([line({"TCP": {"destination_port": 40000}}, is_reply=True)], "f")
    assert (len(seen.flows), seen.replies) == (0, 1)


@pytest.mark.parametrize(
    "l4",
    [
        {},
        {"TCP": {"destination_port": True}},
        {"TCP": {"destination_port": -1}},
        {"TCP": {"destination_port": 10**24}},
        {"UDP": {}},
        {"ICMPv4": {"type": 70000}},
        {"ICMPv6": {"type": 256}},
    ],
)
def test_what_no_policy_speaks_of_is_left_out_and_counted(l4: object) -> None:
    seen = read_flows([line(l4)], "f")
    assert (len(seen.flows), seen.others) == (0, 1)


@pytest.mark.parametrize(
    ("text", "rule"), [("{", "no JSON"), ("[]", "must be an object"), ('{"flow": 1}', "flow: must")]
)
def test_a_line_that_is_none_is_named(text: str, rule: str) -> None:
    with pytest.raises(Failure, match=f"f: line 1: .*{rule}"):
        read_flows([text], "f")
