"""Namespaces, cables, the workload server and the prober, without a cluster on top."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from kilim.lab import cluster, commands, faults
from kilim.lab.cgroup import lab_cgroup, pids_in
from kilim.lab.exchange import Target
from kilim.lab.names import netns_prefix, run_dir
from kilim.lab.netns import open_socket
from kilim.lab.probe import Question, ask_all
from kilim.lab.process import pid_of, start_process, wait_until
from kilim.lab.serving import serve, stop_serving, workloads_socket
from kilim.lab.topology import External, Lab, Node, Port, default_node_plans
from kilim.model.protocols import PROTOCOL_NUMBERS, of_family

OUTSIDE = External("web", "198.51.100.10", ipv6="2001:db8::10")
PORTS = tuple(Port(port, protocol) for port in (80, 81) for protocol in ("TCP", "UDP", "SCTP"))


@pytest.fixture
async def lab(name_prefix: str) -> AsyncIterator[Lab]:
    cluster.check_machine()
    spec = cluster.ClusterSpec(f"{name_prefix}-f", default_node_plans(3), 1, 1, (OUTSIDE,))
    try:
        lab = cluster.lay_out(spec)
        start_process(lab.name, commands.workloads_process(lab))
        await wait_until("workloads", workloads_socket(lab).exists, 10)
        for node in lab.nodes:
            assert await serve(lab, f"x/{node.name}", lab.netns(node.name), PORTS) == []
        yield lab
    finally:
        cluster.take_down(spec.name)


def question(
    lab: Lab, source: str, node: Node, port: int, protocol: str, answerer: str | None = None
) -> list[Question]:
    """Over each family."""
    ports = {ip: of_family(PROTOCOL_NUMBERS[protocol], port, ":" in ip)[1] for ip in node.ips}
    return [Question(Target(lab.netns(source), ip, ports[ip], protocol, answerer), None) for ip in node.ips]


async def check(expected: list[str], *asked: list[Question]) -> None:
    """That both families get it. What is expected to be denied is not asked again with more patience."""
    questions = [
        replace(each, expect=expect) for expect, families in zip(expected, asked, strict=True) for each in families
    ]
    verdicts = iter(await ask_all(questions, []))
    assert ["/".join(sorted({next(verdicts).got for _ in families})) for families in asked] == expected


async def test_every_protocol_reaches_the_right_one_and_is_told_from_a_wrong_one(lab: Lab) -> None:
    asked = [
        question(lab, a.name, b, port.port, port.protocol, f"x/{b.name}")
        for a in lab.nodes
        for b in lab.nodes
        for port in PORTS
    ]
    await check(["allow"] * len(asked), *asked)
    node1, node2, _ = lab.nodes
    await check(["allow"], question(lab, "node1", node2, 8, "ICMP"))
    await check(["allow"], question(lab, "ext-web", node1, 80, "TCP", "x/node1"))
    await check(["error"], question(lab, "node1", node2, 80, "TCP", "x/other"))
    await check(["error"], question(lab, "node1", node2, 99, "TCP"))  # nobody listens: a reset, not a drop


async def test_cut_cables_and_pairs(lab: Lab) -> None:
    node1, node2, node3 = lab.nodes
    near = question(lab, "node1", node2, 80, "UDP"), question(lab, "node3", node2, 80, "UDP")
    faults.partition(lab, "node1", "node2")
    await check(["deny", "allow"], *near)
    faults.heal(lab)
    await check(["allow", "allow"], *near)
    faults.partition(lab, "node2")
    await check(["deny", "deny"], *near)
    faults.heal(lab, "node2")
    await check(["allow", "allow"], *near)


async def test_the_workload_server_keeps_connections_and_survives_its_own_death(lab: Lab) -> None:
    node1 = lab.nodes[0]
    for ip in node1.ips:
        reader, writer = await connect(lab, "node2", ip)
        for text in (b"one", b"two"):
            writer.write(text)
            assert await reader.read(100) == b"x/node1 " + text
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await reader.read(200)).endswith(b"\r\n\r\nx/node1\n")
        writer.close()
    workloads_socket(lab).unlink()
    faults.kill(lab, "workloads")
    faults.restart(lab, "workloads")
    await wait_until("workloads", workloads_socket(lab).exists, 10)
    await check(["allow"], question(lab, "node2", node1, 81, "UDP", "x/node1"))
    await stop_serving(lab, "x/node1")
    await check(["error"], question(lab, "node2", node1, 80, "TCP"))


async def connect(lab: Lab, source: str, ip: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    opened = open_socket(lab.netns(source), family, socket.SOCK_STREAM)
    await asyncio.get_running_loop().sock_connect(opened, (ip, 80))
    return await asyncio.open_connection(sock=opened)


async def test_the_relay_carries_loopback_into_the_lab(lab: Lab) -> None:
    (etcd,) = lab.etcd
    start_process(lab.name, commands.etcd_process(lab, etcd))
    for _ in range(200):
        reader, writer = await asyncio.open_connection("127.0.0.1", etcd.loopback_port)
        writer.write(b"GET /version HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        if b"etcdserver" in answer:
            break
        await asyncio.sleep(0.05)
    assert b'"etcdserver"' in answer


async def test_down_leaves_no_trace_and_needs_no_memory(lab: Lab) -> None:
    (etcd,) = lab.etcd
    start_process(lab.name, commands.etcd_process(lab, etcd))
    faults.pause(lab, "etcd1")
    pids = [pid_of(lab.name, name) for name in ("etcd1", "relay", "workloads")]
    (run_dir(lab.name) / "lab.json").unlink()
    assert cluster.take_down(lab.name) is True
    assert not lab_cgroup(lab.name).exists() and not run_dir(lab.name).exists()
    assert [file for file in os.listdir("/var/run/netns") if file.startswith(netns_prefix(lab.name))] == []
    assert all(pid is not None and not has_namespace(pid) for pid in pids)
    assert lab.name not in cluster.existing_labs()
    assert cluster.take_down(lab.name) is False


def has_namespace(pid: int) -> bool:
    """A zombie has none."""
    return os.path.exists(f"/proc/{pid}/ns/net")


@pytest.fixture
def neighbour(lab: Lab, name_prefix: str) -> Iterator[Lab]:
    spec = cluster.ClusterSpec(f"{name_prefix}-f-2", default_node_plans(1), 1, 1)
    try:
        yield cluster.lay_out(spec)
    finally:
        cluster.take_down(spec.name)


async def test_labs_side_by_side_do_not_touch_one_another(lab: Lab, neighbour: Lab) -> None:
    ports = [server.loopback_port for each in (lab, neighbour) for server in (*each.replicas, *each.etcd)]
    assert len(set(ports)) == len(ports)
    relay = pid_of(lab.name, "relay")
    cluster.take_down(neighbour.name)
    assert pids_in(lab_cgroup(lab.name) / "relay") == [relay]
    await check(["allow"], question(lab, "node1", lab.nodes[1], 80, "TCP"))
