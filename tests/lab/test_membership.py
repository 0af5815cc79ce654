"""ipBlocks over addresses of pods come and go: pods change identity, connections that all policies allow live on."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_network
from typing import Any

from kilim.lab import api
from kilim.lab.client import ControlPlane
from kilim.lab.commands import replica_targets
from kilim.lab.names import NETNS_DIR
from kilim.lab.netns import open_socket
from kilim.lab.topology import Lab

PORT = 7000
PATIENCE_S = 2.0  # a packet that is lost comes again after 0.2 s, then 0.4 s


class Talk:
    """Connections of a client, one over each family, over each of which a byte goes to and fro; `answers`: of the one
    with the fewest, `longest_s`: the longest wait for one."""

    def __init__(self, ends: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
        self._ends, self._answers = ends, [0] * len(ends)
        self.longest_s = 0.0

    @property
    def answers(self) -> int:
        return min(self._answers)

    async def run(self) -> None:
        await asyncio.gather(*map(self._ask, range(len(self._ends))))

    async def _ask(self, number: int) -> None:
        reader, writer = self._ends[number]
        while True:
            asked_s = time.monotonic()
            writer.write(b"?")
            async with asyncio.timeout(PATIENCE_S):
                assert await reader.readexactly(1) == b"!"
            self._answers[number] += 1
            self.longest_s = max(self.longest_s, time.monotonic() - asked_s)
            await asyncio.sleep(0.002)

    async def close(self) -> None:
        for _, writer in self._ends:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def talks(server: dict[str, Any], clients: list[dict[str, Any]]) -> AsyncIterator[list[Talk]]:
    """Connections of all clients to the server, opened before anything happens."""

    answering: list[asyncio.Task[Any] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.current_task())
        while await reader.read(1):
            writer.write(b"!")
        writer.close()

    async with AsyncExitStack() as opened:
        for ip in server["ips"]:
            listening = opened_in(server, ip)
            listening.bind((ip, PORT))
            await opened.enter_async_context(await asyncio.start_server(answer, sock=listening))
        found = []
        for client in clients:
            found.append(Talk([await connected(client, ip) for ip in server["ips"]]))
        tasks = [asyncio.create_task(talk.run()) for talk in found]
        try:
            yield found
            for task in tasks:
                assert not task.done(), task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for talk in found:
                await talk.close()
            await asyncio.wait([task for task in answering if task is not None], timeout=PATIENCE_S)


def opened_in(pod: dict[str, Any], ip: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    return open_socket(NETNS_DIR / pod["netns"], family, socket.SOCK_STREAM)


async def connected(pod: dict[str, Any], ip: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    handle = opened_in(pod, ip)
    await asyncio.get_running_loop().sock_connect(handle, (ip, PORT))
    return await asyncio.open_connection(sock=handle)


POOLS = ("10.244.0.0/16", "fd00:10:244::/48")
ELSEWHERE = ("10.244.9.0/24", "fd00:10:244:9::/64")


def policy(family: int, *excepts: str) -> dict[str, Any]:
    """All pods of `shop` may speak to whom the block of that family has, and to nobody else."""
    peers = [{"ipBlock": {"cidr": POOLS[family], "except": list(excepts)}}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "block", "namespace": "shop"},
        "spec": {
            "podSelector": {},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": peers}],
            "egress": [{"to": peers}],
        },
    }


async def test_connections_outlive_policies_that_allow_them(name_prefix: str) -> None:
    name = f"{name_prefix}-m"
    try:
        lab = await api.up(name, nodes=2, replicas=1, app=False)
        pods = {
            pod: await api.add_pod(name, f"shop/{pod}", node, ports=["80"])
            for pod, node in (("server", "node1"), ("near", "node1"), ("far", "node2"), ("outsider", "node2"))
        }
        async with talks(pods["server"], [pods["near"], pods["far"]]) as found:
            await come_and_go(lab, pods["outsider"]["ips"])
        assert all(talk.answers > 30 for talk in found)
        assert all(talk.longest_s < PATIENCE_S for talk in found)
    finally:
        api.down(name)


async def come_and_go(lab: Lab, outsider: list[str]) -> None:
    """Blocks of one family after those of the other; a pod that one has is in it with all its addresses."""
    async with ControlPlane(replica_targets(lab)) as plane:
        for number in range(10):
            family = number % 2
            out = str(ip_network(outsider[family]))
            for excepts in ((), (out,), (out, ELSEWHERE[family])):
                await plane.wait(await plane.apply([("policy", policy(family, *excepts))]))
            if number < 2:
                assert (await api.probe(lab.name, "shop/outsider", "shop/server", 80))["got"] == "deny"
                assert (await api.probe(lab.name, "shop/far", "shop/server", 80))["got"] == "allow"
            await plane.wait(await plane.delete("NetworkPolicy", "shop", "block", "policy"))
