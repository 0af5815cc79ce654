"""A record as a line and as a flow in Hubble's words, which `kilim simulate --against` takes."""

import json

import pytest

from kilim.cli.flow_lines import read_flows
from kilim.cli.monitor import as_flow, as_line
from kilim.model.address import parse_ip
from kilim.model.flow_verdicts import FlowEnd, SeenFlow
from kilim.v1 import agent_pb2 as pb


def record(**changed: object) -> pb.Drop:
    fields = {
        "reason": "POLICY_DENY",
        "reason_number": 181,
        "direction": "egress",
        "source_ip": "10.0.0.1",
        "destination_ip": "192.0.2.9",
        "source_port": 40000,
        "destination_port": 443,
        "protocol": 6,
        "source_identity": 256,
        "destination_identity": 2,
        "verdict": "DROPPED",
        "source_pod": "shop/web",
    }
    return pb.Drop(**{**fields, **changed})  # type: ignore[arg-type]


def rule(**changed: object) -> pb.DecidingRule:
    fields = {"kind": "CiliumNetworkPolicy", "namespace": "shop", "name": "p", "section": "egressDeny", "rule": 1}
    return pb.DecidingRule(**{**fields, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({}, "shop/web:40000 (ID:256) -> 192.0.2.9:443 (world) TCP DROPPED (POLICY_DENY, egress)"),
        ({"decided_by": [rule()]}, "(POLICY_DENY, egress) by CiliumNetworkPolicy shop/p egressDeny[1]"),
        (
            {"decided_by": [rule(kind="ClusterNetworkPolicy", namespace="", section="")]},
            "(POLICY_DENY, egress) by ClusterNetworkPolicy p",
        ),
        ({"policy_changed": True}, "(POLICY_DENY, egress) policy has changed since"),
        (
            {"protocol": 1, "destination_port": 8, "source_identity": 0},
            "shop/web (unknown) -> 192.0.2.9 type 8 (world)",
        ),
    ],
)
def test_as_a_line(changed: dict[str, object], text: str) -> None:
    assert text in as_line(record(**changed))


def test_as_a_flow() -> None:
    flow = as_flow(record(decided_by=[rule(), rule(section="", rule=0)]))
    name = {"kind": "CiliumNetworkPolicy", "namespace": "shop", "name": "p"}
    assert flow["egress_denied_by"] == [{**name, "section": "egressDeny", "rule": 1}, name]
    assert (flow["verdict"], flow["drop_reason"], flow["drop_reason_desc"]) == ("DROPPED", 181, "POLICY_DENY")
    assert flow["destination"] == {"identity": 2}
    assert as_flow(record(policy_changed=True))["policy_changed"] is True


def test_simulate_takes_the_flows() -> None:
    icmp = record(protocol=1, source_port=7, destination_port=8)
    seen = read_flows([json.dumps(as_flow(each)) for each in (record(), record(), icmp)], "-")
    ends = FlowEnd("shop/web", parse_ip("10.0.0.1")), FlowEnd("", parse_ip("192.0.2.9"))
    assert seen.flows == {SeenFlow(*ends, 6, 443): 2, SeenFlow(*ends, 1, 8): 1} and not seen.others
