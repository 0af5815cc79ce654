"""Addresses of both families where the command line takes and prints them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from kilim.cli.addresses import split_port, with_port
from kilim.cli.columns import columns
from kilim.cli.event import event_summary
from kilim.cli.flow_lines import read_flows
from kilim.cli.kinds import BY_NAME
from kilim.cli.main import main
from kilim.cli.monitor import as_flow, as_line
from kilim.cli.nodes import PLACE, node_rows
from kilim.cli.output import plain, to_json
from kilim.cli.status import render
from kilim.controlplane.api.condition import routing_problems
from kilim.controlplane.api.shown import show
from kilim.model.address import mapped, parse_ip
from kilim.model.nouns import Endpoint, Node, endpoint_to_pb, node_to_pb
from kilim.model.state import State
from kilim.v1 import agent_pb2, events_pb2
from kilim.v1 import controlplane_pb2 as pb

IPV6 = "fd00:10:244::3"
NODES = {
    "both": Node("n1", parse_ip("192.0.2.1"), ("10.244.0.0/24", "fd00:10:244::/64"), ipv6=parse_ip("2001:db8::1")),
    "ipv6": Node("n1", 0, ("fd00:10:244::/64",), ipv6=parse_ip("2001:db8::1")),
    "ipv4": Node("n1", parse_ip("192.0.2.1"), ("10.244.0.0/24",)),
}
SHOWN = {"both": ["192.0.2.1", "2001:db8::1"], "ipv6": ["2001:db8::1"], "ipv4": ["192.0.2.1"]}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("192.0.2.1:4260", ("192.0.2.1", 4260)),
        ("replica1.kilim:4260", ("replica1.kilim", 4260)),
        ("[2001:db8::1]:4260", ("2001:db8::1", 4260)),
        ("2001:db8::1:4260", None),
        ("192.0.2.1]:4260", None),
        ("[[2001:db8::1]]:4260", None),
        ("[2001:db8::1]", None),
        ("2001:db8::1", None),
        ("[2001:db8::1:4260", None),
        ("[]:4260", None),
        (":4260", None),
        ("here", None),
        ("here:0", None),
        ("here:65536", None),
        ("here:4²", None),
        ("here:" + "9" * 5000, None),
    ],
)
def test_an_address_with_its_port(text: str, parts: tuple[str, int] | None) -> None:
    assert split_port(text) == parts
    assert parts is None or with_port(*parts) == text


def test_brackets_that_are_not_needed_do_no_harm() -> None:
    assert split_port("[192.0.2.1]:4260") == ("192.0.2.1", 4260)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("listen", "2001:db8::1:4260", '"2001:db8::1:4260" must be HOST:PORT, with an IPv6 address in brackets'),
        ("advertise", "2001:db8::1", '"2001:db8::1" must be HOST:PORT, with an IPv6 address in brackets'),
        ("prometheus-serve-addr", "::1:9", '"::1:9" must be HOST:PORT, with an IPv6 address in brackets'),
        ("etcd-endpoints", "http://::1:2379", '"http://::1:2379" must be http://HOST:PORT, with an IPv6 address in'),
        ("cluster-pool-ipv6-cidr", "10.0.0.0/8", "--cluster-pool-ipv6-cidr: '10.0.0.0/8' is not an IPv6 CIDR"),
        ("cluster-pool-ipv6-cidr", "fd00::1/48", '"fd00::1/48" has bits set behind its prefix, fd00::/48 is meant'),
        ("cluster-pool-ipv6-mask-size", "24", "--cluster-pool-ipv6-mask-size: 24 must be from 32 to 126"),
        ("cluster-pool-ipv4-mask-size", "8", "--cluster-pool-ipv4-cidr: 10.244.0.0/16 must hold at least one /8"),
    ],
)
def test_what_a_replica_is_not_started_with(option: str, value: str, message: str) -> None:
    given = [] if option == "etcd-endpoints" else ["--embedded-etcd", "/nowhere"]
    result = CliRunner().invoke(main, ["controlplane", "--name", "r", *given, f"--{option}", value])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr and f"--{option.partition('-')[0]}" in result.stderr


@pytest.mark.parametrize("families", list(NODES))
def test_a_node_is_shown_with_the_addresses_it_has(families: str) -> None:
    node, ips = NODES[families], SHOWN[families]
    state = State()
    state.put("node", "n1", node_to_pb(node).SerializeToString(deterministic=True))
    found = show(state, "Node", "", "n1")
    assert found is not None and [ip in found.json for ip in SHOWN["both"]] == [ip in ips for ip in SHOWN["both"]]
    event = events_pb2.Event(node_joined=events_pb2.NodeJoined(node=node_to_pb(node)))
    assert event_summary(event) == f"n1 {','.join(ips)} {','.join(node.pod_cidrs)}"
    data = plain(event)["node_joined"]["node"]
    assert [data["ip"], data["ipv6"]] == [ip if ip in ips else None for ip in SHOWN["both"]]
    status = pb.NodeStatus(name="n1", ip=data["ip"] or "", ipv6=data["ipv6"] or "")
    headers, rows = node_rows([status], PLACE, wide=False)
    assert rows[0][headers.index("IP")] == ips


def test_an_endpoint_is_shown_with_both_addresses() -> None:
    noun = Endpoint("shop", "db", "n1", 3, parse_ip("10.244.0.3"), 256, ipv6=parse_ip(IPV6))
    state = State()
    state.put("endpoint", "shop/db", endpoint_to_pb(noun).SerializeToString(deterministic=True))
    found = show(state, "Endpoint", "shop", "db")
    assert found is not None
    item = json.loads(found.json)
    assert (item["spec"]["ip"], item["spec"]["ipv6"]) == ("10.244.0.3", IPV6)
    (column,) = [each for each in columns(BY_NAME["Endpoint"], wide=False, with_namespace=False) if each.header == "IP"]
    assert column.cell(item) == ["10.244.0.3", IPV6]
    event = events_pb2.Event(endpoint_added=events_pb2.EndpointAdded(endpoint=endpoint_to_pb(noun)))
    assert event_summary(event) == f"shop/db 10.244.0.3,{IPV6} on n1, identity 256"


def test_bytes_that_are_no_address_are_shown_as_they_are() -> None:
    event = events_pb2.Event(node_joined=events_pb2.NodeJoined(node=events_pb2.Node(name="n1", ipv6=b"\x01\x02")))
    assert plain(event)["node_joined"]["node"]["ipv6"] == "0102"
    assert event_summary(event) == "n1 no address"
    event.node_joined.node.ipv6 = mapped(parse_ip(IPV6))
    assert f'"ipv6": "{IPV6}"' in to_json(plain(event))


def drop(**changed: Any) -> agent_pb2.Drop:
    fields = {
        "reason": "POLICY_DENIED", "direction": "ingress", "source_ip": "2001:db8::9", "destination_ip": IPV6,
        "source_port": 40000, "destination_port": 443, "protocol": 6, "source_identity": 2, "destination_identity": 256,
        "verdict": "DROPPED",
    }  # fmt: skip
    return agent_pb2.Drop(**{**fields, **changed})


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({}, f"[2001:db8::9]:40000 (world) -> [{IPV6}]:443 (ID:256) TCP DROPPED"),
        ({"destination_pod": "shop/db"}, "[2001:db8::9]:40000 (world) -> shop/db:443 (ID:256) TCP"),
        ({"protocol": 58, "destination_port": 128}, f"2001:db8::9 (world) -> {IPV6} type 128 (ID:256)"),
    ],
)
def test_a_record_as_a_line(changed: dict[str, Any], text: str) -> None:
    assert text in as_line(drop(**changed))


def test_a_record_as_a_flow_that_simulate_takes() -> None:
    icmp = drop(protocol=58, destination_port=128)
    flows = [as_flow(each) for each in (drop(), icmp)]
    assert [flow["IP"]["ipVersion"] for flow in flows] == ["IPv6", "IPv6"]
    assert flows[1]["l4"] == {"ICMPv6": {"type": 128}}
    seen = read_flows(map(json.dumps, flows), "-")
    assert {(flow.destination.ip, flow.protocol, flow.port) for flow in seen.flows} == {
        (parse_ip(IPV6), 6, 443),
        (parse_ip(IPV6), 58, 128),
    }


def test_routing_modes_that_differ() -> None:
    def node(name: str, mode: str, up: bool = True) -> pb.NodeStatus:
        return pb.NodeStatus(name=name, routing_mode=mode, up=up)

    assert routing_problems([node("a", "tunnel"), node("b", "tunnel"), node("c", ""), node("d", "native", False)]) == []
    lines = routing_problems([node("node1", "tunnel"), node("node2", "native")])
    assert lines == ["routing-mode differs between nodes: node1 tunnel, node2 native"]
    many = [*(node(f"n{number}", "tunnel") for number in range(6)), node("n9", "native")]
    assert routing_problems(many) == [
        "routing-mode differs between nodes: n0 tunnel, n1 tunnel, n2 tunnel, 3 more tunnel, n9 native"
    ]


def test_status_says_how_nodes_route() -> None:
    same = [pb.NodeStatus(name=name, routing_mode="native", up=True) for name in "ab"]
    assert "Routing  native\n" in render(pb.StatusResponse(nodes=same), wide=False)
    same[0].routing_mode = "tunnel"
    assert "Routing  native, tunnel\n" in render(pb.StatusResponse(nodes=same), wide=False)
    assert "Routing" not in render(pb.StatusResponse(nodes=[pb.NodeStatus(name="a")]), wide=False)
