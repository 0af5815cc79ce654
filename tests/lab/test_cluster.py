"""`kilim lab up` as users have it: a cluster with the application, looked at, probed, hurt and taken down."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilim.lab import api, context
from kilim.lab.client import ControlPlane, agent_status
from kilim.lab.cluster import wait_ready
from kilim.lab.commands import agent_socket
from kilim.lab.errors import BadInput, LabError
from kilim.lab.names import netns_prefix
from kilim.lab.topology import Lab, load_lab

KILIM = Path(sys.executable).parent / "kilim"


@pytest.fixture(scope="module")
def lab(name_prefix: str) -> Iterator[Lab]:
    name = f"{name_prefix}-c"
    try:
        yield asyncio.run(api.up(name))
    finally:
        api.down(name)


def test_status_lists_everything_with_addresses_and_pids(lab: Lab) -> None:
    status = asyncio.run(api.status(lab.name))
    assert [node["name"] for node in status["nodes"]] == ["node1", "node2", "node3"]
    assert len(status["pods"]) == 6 and len(status["replicas"]) == 3 and len(status["etcd"]) == 1
    for process in (*(node["agent"] for node in status["nodes"]), *status["replicas"], *status["etcd"]):
        assert os.path.exists(f"/proc/{process['pid']}")
    for entry in (*status["nodes"], *status["replicas"], *status["etcd"]):
        assert os.path.exists(f"/var/run/netns/{entry['namespace']}")
    for pod in status["pods"]:
        assert os.path.exists(f"/var/run/netns/{pod['netns']}")
        assert pod["ips"] and pod["endpoint_id"] and pod["node"]
    assert {(pod["namespace"], pod["name"]) for pod in status["pods"]} >= {
        ("shop", "api"),
        ("monitoring", "prometheus"),
    }


async def test_any_replica_answers_on_the_loopback_of_the_machine(lab: Lab) -> None:
    for replica in lab.replicas:
        async with ControlPlane([replica.loopback]) as plane:
            answer = await plane.status()
            assert {node.name for node in answer.nodes} == {"node1", "node2", "node3"}


def test_commands_find_the_lab_by_themselves(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILIM_LAB", lab.name)
    assert context.default_servers() == [replica.loopback for replica in lab.replicas]
    monkeypatch.setenv("KILIM_LAB", "no-such-lab")
    with pytest.raises(BadInput, match="no lab 'no-such-lab' is up"):
        context.default_servers()


def probed(lab: Lab, source: str, target: str, port: int, protocol: str = "TCP") -> dict[str, Any]:
    return asyncio.run(api.probe(lab.name, source, target, port, protocol))


def test_probes_and_commands_in_pods(lab: Lab) -> None:
    assert probed(lab, "shop/frontend", "shop/api", 8080)["got"] == "allow"
    assert probed(lab, "shop/frontend", "shop/dns", 53, "UDP")["got"] == "allow"
    assert probed(lab, "shop/db", "node:node1", 8, "ICMP")["got"] == "allow"
    assert probed(lab, "node:node1", "shop/db", 5432)["got"] == "allow"
    assert probed(lab, "shop/frontend", "shop/api", 99)["message"] == "Connection refused"
    assert "no-such" in probed(lab, "shop/no-such", "shop/api", 8080)["message"]
    assert api.exec_in_pod(lab.name, "shop/frontend", ["sh", "-c", "exit 7"]) == 7
    shown = subprocess.run(
        [KILIM, "lab", "exec", "--name", lab.name, "shop/frontend", "--", "ip", "address"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    frontend = next(p for p in asyncio.run(api.status(lab.name))["pods"] if p["name"] == "frontend")
    assert all(ip in shown.stdout for ip in frontend["ips"])


def test_pods_come_and_go(lab: Lab) -> None:
    added = asyncio.run(api.add_pod(lab.name, "extra/web", "node2", labels={"app": "web"}, ports=["80", "53/UDP/dns"]))
    assert added["node"] == "node2"
    assert [ip.startswith(pool) for ip, pool in zip(added["ips"], ("10.244.2.", "fd00:10:244:2:"), strict=True)] == [
        True
    ] * 2
    assert probed(lab, "shop/frontend", "extra/web", 53, "UDP")["got"] == "allow"
    with pytest.raises(BadInput):
        asyncio.run(api.add_pod(lab.name, "extra/web"))
    asyncio.run(api.remove_pod(lab.name, "extra/web"))
    assert not any(file.endswith("extra.web") for file in os.listdir("/var/run/netns"))
    for ip in added["ips"]:
        assert probed(lab, "shop/frontend", ip, 80)["got"] != "allow"


async def test_a_killed_agent_comes_back_to_the_same_tables(lab: Lab) -> None:
    before = await agent_status(agent_socket(lab, "node2"))
    assert before is not None
    api.kill(lab.name, "node2")
    assert (await api.status(lab.name))["nodes"][1]["agent"]["pid"] is None
    assert (await api.probe(lab.name, "shop/frontend", "shop/api", 8080))["got"] == "allow"
    api.restart(lab.name, "node2")
    async with ControlPlane([lab.replicas[0].loopback]) as plane, asyncio.timeout(20):
        await wait_ready(lab)
        await plane.wait((await plane.status()).seq)
    after = await agent_status(agent_socket(lab, "node2"))
    assert after is not None
    assert (after.seq, after.table_digest) == (before.seq, before.table_digest)


def test_a_node_that_is_cut_off_and_healed(lab: Lab) -> None:
    api.partition(lab.name, "node2")
    assert probed(lab, "shop/frontend", "shop/api", 8080)["got"] != "allow"
    api.heal(lab.name)
    assert probed(lab, "shop/frontend", "shop/api", 8080)["got"] == "allow"


async def test_a_paused_replica_is_not_waited_for(lab: Lab) -> None:
    api.pause(lab.name, "replica1")
    try:
        async with ControlPlane([replica.loopback for replica in lab.replicas[1:]]) as plane:
            assert (await plane.status()).etcd.reachable
    finally:
        api.resume(lab.name, "replica1")


def test_what_cannot_be_is_said_in_one_line(lab: Lab) -> None:
    with pytest.raises(LabError, match="is up already"):
        asyncio.run(api.up(lab.name))
    for call in (lambda: api.kill(lab.name, "node9"), lambda: api.partition(lab.name, "pod")):
        with pytest.raises(BadInput):
            call()
    with pytest.raises(LabError, match="no lab 'nobody' is up"):
        asyncio.run(api.status("nobody"))


def test_a_second_lab_stands_beside_the_first_and_goes_without_it(lab: Lab, name_prefix: str) -> None:
    second = f"{name_prefix}-c-2"
    try:
        other = asyncio.run(api.up(second, nodes=1, replicas=1, etcd_members=3, app=False))
        assert not {r.loopback_port for r in other.replicas} & {r.loopback_port for r in lab.replicas}
        assert {lab.name, second} <= set(api.list_labs())
        assert all(member["pid"] for member in asyncio.run(api.status(second))["etcd"])
    finally:
        assert api.down(second)
    assert probed(lab, "shop/api", "shop/db", 5432)["got"] == "allow"
    assert load_lab(lab.name) == lab


def test_an_interrupted_run_leaves_nothing(name_prefix: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("kind: Scenario\nnodes: 1\nsteps: [{}]\n")
    run = subprocess.Popen([KILIM, "lab", "run", tmp_path / "s.yaml"], stderr=subprocess.PIPE)
    prefix = netns_prefix(f"run-{run.pid}")
    while run.poll() is None and not any(file.startswith(prefix) for file in os.listdir("/var/run/netns")):
        pass
    run.terminate()
    run.communicate(timeout=20)
    assert run.returncode != 0
    assert not any(file.startswith(prefix) for file in os.listdir("/var/run/netns"))
    assert f"run-{run.pid}" not in api.list_labs()
