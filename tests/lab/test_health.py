"""Nodes probe one another and their health endpoints; who cannot reach whom is in status, until they can again."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from kilim.lab import api, faults
from kilim.lab.client import ControlPlane
from kilim.lab.commands import agent_socket, replica_targets
from kilim.lab.errors import LabError
from kilim.lab.topology import Lab
from kilim.model.nouns import HEALTH_NAMESPACE
from kilim.v1 import agent_pb2, agent_pb2_grpc
from kilim.v1 import controlplane_pb2 as pb

KILIM = Path(sys.executable).parent / "kilim"
NODES = {"node1", "node2", "node3"}
PATIENCE_S = 40.0
DENY_ALL = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: nothing}
spec: {endpointSelector: {}, ingress: [{}], ingressDeny: [{fromEntities: [all]}], egressDeny: [{toEntities: [all]}]}
"""

T = TypeVar("T")


@pytest.fixture(scope="module")
def lab(name_prefix: str) -> Iterator[Lab]:
    name = f"{name_prefix}-h"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILIM_AGENT_HEALTH_PROBE_INTERVAL", "500ms")
        patch.setenv("KILIM_LAB", name)
        try:
            yield asyncio.run(api.up(name, replicas=1, app=False))
        finally:
            api.down(name)


def status(lab: Lab) -> pb.StatusResponse:
    async def ask() -> pb.StatusResponse:
        async with ControlPlane(replica_targets(lab)) as plane:
            return await plane.status()

    return asyncio.run(ask())


def until(what: str, look: Callable[[], T]) -> T:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(grpc.RpcError, LabError):  # who is starting does not answer yet
            if found := look():
                return found
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(0.1)


def health(lab: Lab, node: str, *, probe: bool = False) -> agent_pb2.HealthResponse:
    with grpc.insecure_channel(f"unix:{agent_socket(lab, node)}") as channel:
        request = agent_pb2.HealthRequest(probe=probe)
        answer: agent_pb2.HealthResponse = agent_pb2_grpc.AgentStub(channel).Health(request, timeout=30)
        return answer


def paths(lab: Lab, source: str, target: str) -> list[agent_pb2.PathHealth]:
    return [path for node in health(lab, source).nodes if node.name == target for path in node.paths]


def is_well(lab: Lab, node: str) -> bool:
    """Whether each probe that it sends now is answered."""
    found = [path for each in health(lab, node, probe=True).nodes for path in each.paths]
    return bool(found) and not any(path.error for path in found)


def reaches(lab: Lab) -> dict[str, set[tuple[str, str]]]:
    """By node, whom it does not reach on which path."""
    return {
        node.name: {(each.node, each.path) for each in node.health.unreachable}
        for node in status(lab).nodes
        if node.health.nodes == len(NODES) - 1
    }


def all_reach_all(lab: Lab) -> bool:
    """On every path, those of health endpoints among them."""
    answers = [health(lab, name) for name in sorted(NODES)]
    paths = [path for answer in answers for node in answer.nodes for path in node.paths]
    families = len(answers[0].endpoint_ips)
    return (
        len(paths) == len(NODES) * (len(NODES) - 1) * 4 * families > 0
        and all(path.state == "reachable" for path in paths)
        and reaches(lab) == {name: set() for name in NODES}
        and status(lab).ok
    )


def pod_links(lab: Lab, node: str) -> list[str]:
    """Names of the host sides of pairs that are on a node."""
    words = ["nsenter", f"--net={lab.netns(node)}", "ip", "-br", "link"]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.partition("@")[0] for line in lines if line.startswith("lxc")]


def kilim(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([KILIM, *words], capture_output=True, text=True, timeout=40)


def test_every_node_reaches_every_other(lab: Lab) -> None:
    until("all reach all", lambda: all_reach_all(lab))
    answer = health(lab, "node1", probe=True)
    assert {node.name for node in answer.nodes} == NODES - {"node1"}
    for node in answer.nodes:
        assert {(path.endpoint, path.protocol) for path in node.paths} == {
            (endpoint, protocol) for endpoint in (False, True) for protocol in ("ICMP", "HTTP")
        }
        assert all(path.latency_ns > 0 and not path.error for path in node.paths)


def test_what_people_see(lab: Lab) -> None:
    shown = kilim("health", "status", "--node", "node1", "--probe")
    assert shown.returncode == 0, shown.stderr
    assert "Reachable:     2/2 nodes" in shown.stdout
    assert shown.stdout.count("OK, RTT=") == sum(len(each.paths) for each in health(lab, "node1").nodes)
    rows = kilim("health", "status", "--node", "node1", "--succinct").stdout.splitlines()
    assert [row.split()[0:2] for row in rows[1:]] == [["node2", "reachable"], ["node3", "reachable"]]
    assert " 2/2" in kilim("status").stdout


def test_no_policy_comes_between(lab: Lab, tmp_path: Path) -> None:
    manifest = tmp_path / "nothing.yaml"
    manifest.write_text(DENY_ALL)
    try:
        assert kilim("apply", "--wait", "-f", str(manifest)).returncode == 0
        assert kilim("setting", "set", "enable-policy", "always").returncode == 0
        assert kilim("status", "--wait").returncode == 0
        for name in sorted(NODES):
            assert is_well(lab, name)
    finally:
        kilim("setting", "set", "enable-policy", "default")
        kilim("delete", "-f", str(manifest))


def test_a_cut_pair_is_seen_from_both_sides_and_well_again_after(lab: Lab) -> None:
    until("all reach all", lambda: all_reach_all(lab))
    every_path = {f"{where} {how}" for where in ("host", "endpoint") for how in ("ICMP", "HTTP")}
    faults.partition(lab, "node1", "node2")
    try:
        cut = {
            "node1": {("node2", path) for path in every_path},
            "node2": {("node1", path) for path in every_path},
            "node3": set(),
        }
        until("the cut is in status", lambda: reaches(lab) == cut)
        shown = kilim("status")
        assert shown.returncode == 1
        assert "node node1: cannot reach node2 for " in shown.stdout
        assert "node node2: cannot reach node1 for " in shown.stdout
        assert "cannot reach node3" not in shown.stdout
        seen = kilim("health", "status", "--node", "node1")
        assert seen.returncode == 1 and "UNREACHABLE: no answer in 0.5 s, last answered" in seen.stdout
    finally:
        faults.heal(lab, "node1", "node2")
    until("all reach all", lambda: all_reach_all(lab))


def test_a_killed_agent_has_the_same_health_endpoint_again(lab: Lab) -> None:
    until("all reach all", lambda: all_reach_all(lab))
    before, ips = status(lab).seq, list(health(lab, "node2").endpoint_ips)
    faults.kill(lab, "node2")
    until("the endpoint is missed", lambda: ("node2", "endpoint ICMP") in reaches(lab).get("node1", set()))
    until("nothing of it is left", lambda: not pod_links(lab, "node2"))
    faults.restart(lab, "node2")
    until("all reach all", lambda: all_reach_all(lab))
    assert list(health(lab, "node2").endpoint_ips) == ips
    assert status(lab).seq == before, "the log has heard of it"
    assert len(pod_links(lab, "node2")) == 1


def test_without_endpoints_only_hosts_are_probed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILIM_AGENT_ENABLE_ENDPOINT_HEALTH_CHECKING", "false")
    faults.restart(lab, "node3")

    def is_gone() -> bool:
        listed = kilim("get", "endpoints", "-n", HEALTH_NAMESPACE, "-o", "json").stdout
        return '"node2"' in listed and '"node3"' not in listed

    until("it has left the log", is_gone)
    until("node1 probes the host alone", lambda: {path.endpoint for path in paths(lab, "node1", "node3")} == {False})
    assert not health(lab, "node3").endpoint_ips
    until("node3 reaches the endpoints of the others", lambda: status(lab).ok and is_well(lab, "node3"))
