"""Connections that are looked at, flushed, collected, and forgotten with their pod."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kilim.lab import api
from kilim.lab.client import ControlPlane
from kilim.lab.cluster import ClusterSpec, bring_up, take_down
from kilim.lab.commands import agent_socket, replica_targets
from kilim.lab.topology import Lab, default_node_plans
from tests.lab.test_membership import Talk, talks

KILIM = Path(sys.executable).parent / "kilim"
PATIENCE_S = 20.0
OPTIONS = ("--bpf-ct-timeout-regular-any=1s", "--conntrack-gc-interval=1s")


@pytest.fixture(scope="module")
async def lab(name_prefix: str) -> AsyncIterator[Lab]:
    """The gc of this one has little to wait for."""
    name = f"{name_prefix}-t"
    try:
        yield await bring_up(ClusterSpec(name, default_node_plans(1), 1, 1, agent_options=OPTIONS))
    finally:
        take_down(name)


@asynccontextmanager
async def two_pods(lab: Lab) -> AsyncIterator[tuple[dict[str, Any], dict[str, Any]]]:
    try:
        ports = ["80/TCP", "80/UDP"]
        yield (
            await api.add_pod(lab.name, "shop/server", "node1", labels={"app": "server"}, ports=ports),
            await api.add_pod(lab.name, "shop/client", "node1", labels={"app": "client"}),
        )
    finally:
        for pod in ("server", "client"):
            await api.remove_pod(lab.name, f"shop/{pod}")


async def bpf_ct(lab: Lab, *words: str) -> str:
    command = (KILIM, "bpf", "ct", *words, "--agent-socket", str(agent_socket(lab, "node1")))
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def connections(lab: Lab) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(await bpf_ct(lab, "list", "-o", "json"))
    return rows


def about(rows: list[dict[str, Any]], ip: str) -> list[dict[str, Any]]:
    return [row for row in rows if ip in f"{row['source']} {row['destination']}"]


async def until(lab: Lab, look: Callable[[list[dict[str, Any]]], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not look(await connections(lab)):
            pass


async def answered(talk: Talk, count: int) -> None:
    while True:
        if talk.answers >= count:
            return
        await asyncio.sleep(0.005)


ISOLATED = [
    {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"{app}", "namespace": "shop"},
        "spec": {
            "podSelector": {"matchLabels": {"app": app}},
            "policyTypes": ["Ingress", "Egress"],
            way: [{peers: [{"podSelector": {"matchLabels": {"app": other}}}]}],
        },
    }
    for app, way, peers, other in (("server", "ingress", "from", "client"), ("client", "egress", "to", "server"))
]


async def test_flushed_connections_go_on_where_policy_has_them(lab: Lab) -> None:
    """The server may open nothing, and its next packet may be the first that is seen again."""
    async with two_pods(lab) as (server, client), ControlPlane(replica_targets(lab)) as plane:
        await plane.wait(await plane.apply([("policy", body) for body in ISOLATED]))
        async with talks(server, [client]) as (talk,):
            for _ in range(20):
                before = talk.answers
                assert "connections removed" in await bpf_ct(lab, "flush")
                async with asyncio.timeout(PATIENCE_S):
                    await answered(talk, before + 5)
            for ip, nobody in zip(client["ips"], ("198.51.100.77", "2001:db8::77"), strict=True):
                (row,) = [each for each in about(await connections(lab), ip) if each["protocol"] == 6]
                assert row["source"].strip("[").startswith(ip)
                assert await bpf_ct(lab, "flush", "--ip", nobody) == "0 connections removed\n"


async def test_expired_ones_are_collected(lab: Lab) -> None:
    async with two_pods(lab) as (server, _):
        answer = await api.probe(lab.name, "shop/client", "shop/server", 80, "UDP")
        assert answer["got"] == "allow"
        async with asyncio.timeout(PATIENCE_S):
            while await raw_rows(lab, server["ips"]):
                pass


async def raw_rows(lab: Lab, ips: list[str]) -> int:
    """Expired ones among them."""
    from kilim.cli.agent_socket import ask
    from kilim.v1 import agent_pb2 as pb

    request = pb.DumpTableRequest(table="ct", kernel=True, raw=True)
    socket = str(agent_socket(lab, "node1"))
    answer = await asyncio.to_thread(ask, socket, lambda stub, timeout: stub.DumpTable(request, timeout=timeout))
    return sum(any(ip in cell for cell in row.cells for ip in ips) for row in answer.rows)


async def test_the_next_pod_with_an_address_has_none_of_the_one_before(lab: Lab) -> None:
    async with two_pods(lab) as (server, _):
        assert (await api.probe(lab.name, "shop/client", "shop/server", 80))["got"] == "allow"
        ips = server["ips"]
        assert all([await raw_rows(lab, [ip]) for ip in ips])
        await api.remove_pod(lab.name, "shop/server")
        again = await api.add_pod(lab.name, "shop/server", "node1", ip=ips[0], labels={"app": "server"})
        assert again["ips"][0] == ips[0] and not await raw_rows(lab, ips)
