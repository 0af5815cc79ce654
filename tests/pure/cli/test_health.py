"""`kilim health status`, as it is printed."""

from __future__ import annotations

from kilim.cli.health import _in_full, _succinct, rtt
from kilim.cli.nodes import HEALTH, node_rows
from kilim.v1 import agent_pb2 as pb
from kilim.v1 import controlplane_pb2 as api


def path(endpoint: bool, protocol: str, **more: object) -> pb.PathHealth:
    given = {"state": "reachable", "latency_ns": 250_000, "last_success_ms": 2_000, "last_probe_ms": 2_000, **more}
    return pb.PathHealth(endpoint=endpoint, ip="10.9.0.254" if endpoint else "192.0.2.9", protocol=protocol, **given)  # type: ignore[arg-type]


ANSWER = pb.HealthResponse(
    node="near",
    interval_ms=60_000,
    endpoint_ips=["10.8.0.254", "fd00::f"],
    nodes=[
        pb.NodeHealth(
            name="far",
            paths=[
                path(False, "ICMP"),
                path(False, "HTTP", latency_ns=12_340_000),
                path(True, "ICMP", state="unreachable", error="no answer in 5 s", failures=4, last_success_ms=90_000),
                path(True, "HTTP", state="unknown", error="no answer in 5 s", failures=1, last_success_ms=-1),
            ],
        ),
        pb.NodeHealth(name="new", paths=[path(False, "ICMP", state="unknown", last_success_ms=-1, last_probe_ms=-1)]),
    ],
)


def test_each_path_has_a_line() -> None:
    assert _in_full(ANSWER, verbose=False).splitlines() == [
        "Node:          near (health endpoint: 10.8.0.254, fd00::f)",
        "Reachable:     0/2 nodes, each probed every 60s",
        "  far:",
        "    Host connectivity to 192.0.2.9:",
        "      ICMP to stack:  OK, RTT=250µs",
        "      HTTP to agent:  OK, RTT=12.3ms",
        "    Endpoint connectivity to 10.9.0.254:",
        "      ICMP to stack:  UNREACHABLE: no answer in 5 s, last answered 90s ago",
        "      HTTP to agent:  unknown: no answer in 5 s, never answered",
        "  new:",
        "    Host connectivity to 192.0.2.9:",
        "      ICMP to stack:  not probed yet",
    ]
    assert "(probed 2s ago, 4 failures in a row)" in _in_full(ANSWER, verbose=True)


def test_a_line_a_node() -> None:
    lines = [line.split() for line in _succinct(ANSWER).splitlines()[1:]]
    assert lines[0] == ["far", "reachable", "12.3ms", "unreachable", "250µs"]
    assert lines[1][:2] == ["new", "unknown"]


def test_round_trips_are_readable() -> None:
    assert (rtt(214_400), rtt(9_999_000), rtt(1_500_000_000)) == ("214µs", "9999µs", "1500.0ms")


def test_status_says_how_many_a_node_reaches() -> None:
    known = api.NodeStatus(name="a", up=True, health=api.ConnectivitySummary(nodes=4, reachable=3))
    nodes = [known, api.NodeStatus(name="b", health=known.health), api.NodeStatus(name="c", up=True)]
    headers, rows = node_rows(nodes, HEALTH, wide=False)
    assert [row[headers.index("REACHES")] for row in rows] == ["3/4", "? 3/4", None]
