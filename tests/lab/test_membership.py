"""ipBlocks over addresses of pods come and go: pods change identity, connections that all policies allow live on."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
    """One connection over which a byte goes to and fro; `longest_s` is the longest wait for an answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.answers, self.longest_s = 0, 0.0

    async def run(self) -> None:
        while True:
            asked_s = time.monotonic()
            self._writer.write(b"?")
            async with asyncio.timeout(PATIENCE_S):
                assert await self._reader.readexactly(1) == b"!"
            self.answers += 1
            self.longest_s = max(self.longest_s, time.monotonic() - asked_s)
            await asyncio.sleep(0.002)


@asynccontextmanager
async def talks(server: dict[str, Any], clients: list[dict[str, Any]]) -> AsyncIterator[list[Talk]]:
    """Connections of all clients to the server, opened before anything happens."""

    answering: list[asyncio.Task[Any] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.current_task())
        while await reader.read(1):
            writer.write(b"!")
        writer.close()

    listening = open_socket(NETNS_DIR / server["netns"], socket.AF_INET, socket.SOCK_STREAM)
    listening.bind((server["ips"][0], PORT))
    async with await asyncio.start_server(answer, sock=listening):
        opened = []
        for client in clients:
            handle = open_socket(NETNS_DIR / client["netns"], socket.AF_INET, socket.SOCK_STREAM)
            await asyncio.get_running_loop().sock_connect(handle, (server["ips"][0], PORT))
            opened.append(await asyncio.open_connection(sock=handle))
        found = [Talk(*streams) for streams in opened]
        tasks = [asyncio.create_task(talk.run()) for talk in found]
        try:
            yield found
            for task in tasks:
                assert not task.done(), task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for _, writer in opened:
                writer.close()
                await writer.wait_closed()
            await asyncio.wait([task for task in answering if task is not None], timeout=PATIENCE_S)


def policy(*excepts: str) -> dict[str, Any]:
    """All pods of `shop` may speak to whom the block has, and to nobody else."""
    peers = [{"ipBlock": {"cidr": "10.244.0.0/16", "except": list(excepts)}}]
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
            await come_and_go(lab, pods["outsider"]["ips"][0])
        assert all(talk.answers > 30 for talk in found)
        assert all(talk.longest_s < PATIENCE_S for talk in found)
    finally:
        api.down(name)


async def come_and_go(lab: Lab, outsider: str) -> None:
    async with ControlPlane(replica_targets(lab)) as plane:
        for number in range(10):
            for body in (policy(), policy(f"{outsider}/32"), policy(f"{outsider}/32", "10.244.9.0/24")):
                await plane.wait(await plane.apply([("policy", body)]))
            if not number:
                assert (await api.probe(lab.name, "shop/outsider", "shop/server", 80))["got"] == "deny"
                assert (await api.probe(lab.name, "shop/far", "shop/server", 80))["got"] == "allow"
            await plane.wait(await plane.delete("NetworkPolicy", "shop", "block", "policy"))
