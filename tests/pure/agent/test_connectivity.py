"""Which paths are probed, when, and what the results come to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilim.agent.core.connectivity import (
    FAILURES,
    NodeConnectivity,
    Pace,
    Path,
    PathTable,
    Record,
    Result,
    connectivity,
    paths_to,
    record_after,
    unreachable_paths,
)
from kilim.agent.health.answers import health_of, summary_of
from kilim.agent.health.icmp import internet_checksum
from kilim.agent.health.metrics import Latencies, connectivity_metrics
from kilim.agent.health.prober import Snapshot
from kilim.model.address import parse_ip
from kilim.model.fold import fold_event
from kilim.model.nouns import HEALTH_NAMESPACE, Endpoint, Node, endpoint_to_pb, node_to_pb
from kilim.model.state import State
from kilim.v1 import events_pb2 as pb

IPV4, IPV6 = False, True
FAR = Node("far", parse_ip("192.0.2.9"), ipv6=parse_ip("2001:db8::9"))
ENDPOINT = Endpoint(HEALTH_NAMESPACE, "far", "far", 1, parse_ip("10.9.0.254"), 4, ipv6=parse_ip("fd00::ffff"))
HOST_ICMP = Path("far", False, FAR.ip, "ICMP")


def record(*outcomes: bool) -> Record:
    found = None
    for second, answered in enumerate(outcomes):
        found = record_after(found, Result(float(second), 0.001) if answered else Result(float(second), error="no"))
    assert found is not None
    return found


def test_each_address_is_probed_by_icmp_and_http() -> None:
    assert [(path.words, path.ip) for path in paths_to(FAR, ENDPOINT, {IPV4, IPV6})] == [
        (words, ip)
        for where, node in (("host", FAR), ("endpoint", ENDPOINT))
        for ip in node.ips
        for words in (f"{where} ICMP", f"{where} HTTP")
    ]


def test_addresses_of_families_that_this_node_has_not_are_left_out() -> None:
    assert {path.ip for path in paths_to(FAR, ENDPOINT, {IPV4})} == {FAR.ip, ENDPOINT.ip}
    assert {path.ip for path in paths_to(FAR, ENDPOINT, {IPV6})} == {FAR.ipv6, ENDPOINT.ipv6}


def test_a_pod_under_that_name_is_no_health_endpoint() -> None:
    pod = Endpoint(HEALTH_NAMESPACE, "far", "far", 1, parse_ip("10.9.0.254"), 300)
    assert paths_to(FAR, pod, {IPV4}) == paths_to(FAR, None, {IPV4})


def test_the_table_of_paths_follows_the_state() -> None:
    state, table = State(), PathTable("near", {IPV4})
    for node in (Node("near", 1), FAR):
        fold_event(state, pb.Event(node_joined=pb.NodeJoined(node=node_to_pb(node))))
    table.follow(state)
    assert {name: len(paths) for name, paths in table.of.items()} == {"far": 2}
    fold_event(state, pb.Event(endpoint_added=pb.EndpointAdded(endpoint=endpoint_to_pb(ENDPOINT))))
    table.follow(state)
    assert {name: len(paths) for name, paths in table.of.items()} == {"far": 4}
    fold_event(state, pb.Event(endpoint_removed=pb.EndpointRemoved(namespace=HEALTH_NAMESPACE, name="far")))
    table.follow(state)
    assert len(table.of["far"]) == 2
    fold_event(state, pb.Event(node_left=pb.NodeLeft(name="far")))
    table.follow(state)
    assert table.of == {}


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((True,), "reachable"),
        ((False,), "unknown"),
        ((True, False), "reachable"),
        ((True, False, False, False), "unreachable"),
        ((False, False, False), "unreachable"),
        ((False, False, False, True), "reachable"),
        ((True, False, False, False, True, False), "reachable"),
    ],
)
def test_one_lost_packet_is_no_news(outcomes: tuple[bool, ...], expected: str) -> None:
    assert FAILURES == 3
    assert record(*outcomes).reachability == expected


def test_since_when_it_is_unreachable() -> None:
    assert record(True, True, False, False, False).since_s == 1
    assert record(False, False, False).since_s == 0
    answered = record(False, True)
    assert (answered.error, answered.latency_s, answered.failures) == ("", 0.001, 0)


def test_doubts_are_cleared_soon_and_a_return_is_seen_soon() -> None:
    pace = Pace(60.0)
    assert pace.next_s(0, 4, [record(True), record(True, False)], 100.0) == 101.0
    assert pace.next_s(0, 4, [record(True), record(False, False, False)], 100.0) == 105.0
    assert 100.0 < pace.next_s(0, 4, [record(True)], 100.0) <= 100.0 + 1.5 * pace.interval_among(4)


@given(st.integers(1, 5000), st.floats(0, 1e6), st.floats(0.5, 300))
def test_nodes_have_slots_of_their_own(nodes: int, now_s: float, interval_s: float) -> None:
    """Each comes once in every interval, and together they are spread over it."""
    pace = Pace(interval_s)
    among_s = pace.interval_among(nodes)
    for number in {0, nodes // 2, nodes - 1}:
        first_s = pace.next_s(number, nodes, [record(True)], now_s)
        assert now_s < first_s <= now_s + 1.5 * among_s + 1e-6
        assert pace.next_s(number, nodes, [record(True)], first_s) == pytest.approx(first_s + among_s)
        phase_s = first_s % among_s
        off_s = abs(phase_s - among_s * number / nodes)
        assert min(off_s, among_s - off_s) < 1e-3


def test_the_work_grows_slower_than_the_cluster() -> None:
    pace = Pace(60.0)
    assert pace.interval_among(1) == 60.0
    assert 500 < pace.interval_among(5000) < 520
    assert (Pace(0.5).timeout_s, pace.timeout_s) == (0.5, 5.0)


def test_a_node_is_reachable_on_all_paths_that_have_been_judged() -> None:
    paths = paths_to(FAR, ENDPOINT, {IPV4})
    table = {"far": paths}
    [nothing] = connectivity(table, {})
    assert nothing.reachability == "unknown"
    [good] = connectivity(table, dict.fromkeys(paths[:3], record(True)))
    assert good.reachability == "reachable"
    [bad] = connectivity(table, {**dict.fromkeys(paths, record(True)), paths[2]: record(False, False, False)})
    assert (bad.reachability, bad.part(endpoint=False), bad.part(endpoint=True)) == (
        "unreachable",
        "reachable",
        "unreachable",
    )
    assert [path.words for path, _ in unreachable_paths([bad])] == ["endpoint ICMP"]


def snapshot(*unreachable: str) -> Snapshot:
    nodes = []
    for name in ("a", "b", *unreachable):
        paths = paths_to(Node(name, 5), None, {IPV4})
        outcome = record(True, False, False, False) if name in unreachable else record(True)
        nodes.append(NodeConnectivity(name, tuple((path, outcome) for path in paths)))
    return Snapshot(10.0, 60.0, nodes)


def test_a_report_is_short() -> None:
    summary = summary_of(snapshot("x"))
    assert (summary.nodes, summary.reachable, summary.more) == (3, 2, 0)
    assert [(each.node, each.path, each.ip, each.error, each.for_ms) for each in summary.unreachable] == [
        ("x", path, "0.0.0.5", "no", 10_000) for path in ("host ICMP", "host HTTP")
    ]
    summary = summary_of(snapshot(*(f"x{number}" for number in range(100))))
    assert (summary.nodes, summary.reachable, len(summary.unreachable), summary.more) == (102, 2, 8, 192)
    assert summary.ByteSize() < 1000


def test_an_answer_tells_each_path() -> None:
    answer = health_of("me", snapshot("x"), (parse_ip("10.0.0.254"),))
    assert (answer.node, answer.interval_ms, list(answer.endpoint_ips)) == ("me", 60_000, ["10.0.0.254"])
    assert [node.name for node in answer.nodes] == ["a", "b", "x"]
    good, bad = answer.nodes[0].paths[0], answer.nodes[2].paths[1]
    assert (good.state, good.protocol, good.latency_ns, good.last_success_ms) == (
        "reachable",
        "ICMP",
        1_000_000,
        10_000,
    )
    assert (bad.state, bad.protocol, bad.failures, bad.last_probe_ms) == ("unreachable", "HTTP", 3, 7_000)


def test_metrics_have_ciliums_names() -> None:
    latencies = Latencies()
    latencies.observe(HOST_ICMP, IPV4, 0.0007)
    latencies.observe(HOST_ICMP, IPV4, 9.0)
    latencies.observe(HOST_ICMP._replace(ip=FAR.ipv6, endpoint=True), IPV4, 0.1)
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in connectivity_metrics("me", snapshot("x").nodes, latencies)
        for sample in family.samples
    }
    status, latency = "cilium_node_health_connectivity_status", "cilium_node_health_connectivity_latency_seconds"
    assert found[status, "me", "node", "reachable"] == 2
    assert found[status, "me", "node", "unreachable"] == found["cilium_unreachable_nodes",] == 1
    assert found[status, "me", "endpoint", "unknown"] == 3
    assert found["cilium_unreachable_health_endpoints",] == 0
    of_node = ("me", "node", "primary", "icmp")
    assert found[f"{latency}_bucket", *of_node, "0.0005"] == 0
    assert found[f"{latency}_bucket", *of_node, "0.001"] == 1
    assert found[f"{latency}_bucket", *of_node, "5.0"] == 1
    assert found[f"{latency}_bucket", *of_node, "+Inf"] == found[f"{latency}_count", *of_node] == 2
    assert found[f"{latency}_sum", "me", "endpoint", "secondary", "icmp"] == pytest.approx(0.1)


def test_the_checksum_is_that_of_rfc_1071() -> None:
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D
    data = bytes(range(21))
    summed = internet_checksum(data + b"\0" + internet_checksum(data).to_bytes(2, "big"))
    assert summed == 0
