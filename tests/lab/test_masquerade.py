"""Pods reach a server outside that knows no way back to them: it sees the node, in both families and routing modes."""

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kilim.lab import api
from kilim.lab.cluster import ClusterSpec, bring_up, take_down
from kilim.lab.names import NETNS_DIR
from kilim.lab.netns import open_socket
from kilim.lab.topology import External, Lab, Port, default_node_plans

PORT, CLOSED, FROM = 7100, 7101, 4444
PATIENCE_S = 20.0
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
OUTSIDE = External("outside", "198.51.100.9", ports=(Port(80, "TCP"),), ipv6="2001:db8:51::9")
NATIVE = ("--routing-mode=native", "--auto-direct-node-routes")
IPS = {family: ip for family, ip in zip((socket.AF_INET, socket.AF_INET6), OUTSIDE.ips, strict=True)}


@dataclass
class World:
    lab: Lab
    pods: dict[str, dict[str, Any]]
    config: Path

    def node_ips(self, pod: str) -> tuple[str, ...]:
        return next(node.ips for node in self.lab.nodes if node.name == self.pods[pod]["node"])

    def connected(self, pod: str, family: int, kind: int, port: int, source: int = 0) -> Awaitable[socket.socket]:
        """From a pod to the server outside."""
        handle = open_socket(NETNS_DIR / self.pods[pod]["netns"], family, kind)
        handle.bind(("", source))

        async def connect() -> socket.socket:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await asyncio.get_running_loop().sock_connect(handle, (IPS[family], port))
            except BaseException:
                handle.close()
                raise
            return handle

        return connect()

    @contextmanager
    def listening(self, family: int, kind: int) -> Iterator[socket.socket]:
        with open_socket(self.lab.netns("ext-outside"), family, kind) as handle:
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            handle.bind((IPS[family], PORT))
            if kind == TCP:
                handle.listen()
            yield handle


@pytest.fixture(scope="module", params=["tunnel", "native"])
async def world(
    request: pytest.FixtureRequest, name_prefix: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """Where routing is native the underlay knows the way to pods, so that what is exempt comes back."""
    name, config = f"{name_prefix}-q", tmp_path_factory.mktemp("ip-masq") / "config"
    native = request.param == "native"
    options = (*NATIVE, "--enable-ip-masq-agent", f"--ip-masq-agent-config-path={config}") if native else ()
    config.write_text("nonMasqueradeCIDRs: []\n")
    spec = ClusterSpec(name, default_node_plans(2), 1, 1, (OUTSIDE,), agent_options=options, routed_pods=native)
    try:
        lab = await bring_up(spec)
        on = {"one": "node1", "same": "node1", "other": "node2"}
        yield World(lab, {pod: await api.add_pod(name, f"shop/{pod}", node) for pod, node in on.items()}, config)
    finally:
        take_down(name)


each_family = pytest.mark.parametrize("family", list(IPS), ids=["IPv4", "IPv6"])


@each_family
async def test_the_server_sees_the_node(world: World, family: socket.AddressFamily) -> None:
    """Pods of one node from one port, too: each gets its own answers."""
    loop = asyncio.get_running_loop()
    for kind in (TCP, UDP):
        with world.listening(family, kind) as server:
            seen = set()
            handles = {pod: await world.connected(pod, family, kind, PORT, FROM) for pod in world.pods}
            for pod, handle in handles.items():
                with handle:
                    await loop.sock_sendall(handle, pod.encode())
                    async with asyncio.timeout(PATIENCE_S):
                        peer = await answer(server, kind)
                        assert await loop.sock_recv(handle, 100) == (
                            f"{pod} is heard".encode() if kind == UDP else b"?"
                        )
                    seen.add(peer)
                    assert peer[0] in world.node_ips(pod)
            assert len(seen) == len(world.pods)


async def answer(server: socket.socket, kind: int) -> tuple[str, int]:
    """The one that was heard. Over TCP any pod may be the first."""
    loop = asyncio.get_running_loop()
    if kind == UDP:
        data, peer = await loop.sock_recvfrom(server, 100)
        await loop.sock_sendto(server, data + b" is heard", peer)
    else:
        connection, peer = await loop.sock_accept(server)
        with connection:
            await loop.sock_sendall(connection, b"?")
            return peer[0], peer[1]
    return peer[0], peer[1]


@each_family
async def test_much_arrives_as_it_was_sent_both_ways(world: World, family: socket.AddressFamily) -> None:
    data = os.urandom(8 << 20)
    with world.listening(family, TCP) as listening:

        async def send_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received = await reader.readexactly(len(data))
            writer.write(hashlib.sha256(received).digest() + received)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(send_back, sock=listening.dup()):
            reader, writer = await asyncio.open_connection(sock=await world.connected("one", family, TCP, PORT))
            writer.write(data)
            async with asyncio.timeout(PATIENCE_S):
                back = await reader.readexactly(32 + len(data))
            writer.close()
            await writer.wait_closed()
    assert back == hashlib.sha256(data).digest() + data


@each_family
async def test_errors_come_back_to_the_pod(world: World, family: socket.AddressFamily) -> None:
    """A reset, and an ICMP error about what the server got from the node."""
    loop = asyncio.get_running_loop()
    with pytest.raises(ConnectionRefusedError):
        await world.connected("one", family, TCP, CLOSED)
    with await world.connected("one", family, UDP, CLOSED) as handle:
        await loop.sock_sendall(handle, b"anybody?")
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(ConnectionRefusedError):
                await loop.sock_recv(handle, 100)


async def test_echoes_come_back(world: World) -> None:
    for pod in world.pods:
        found = await api.probe(world.lab.name, f"shop/{pod}", "ext:outside", 8, "ICMP")
        assert found["got"] == "allow"


def ends(world: World, family: socket.AddressFamily) -> dict[str, tuple[Path, str]]:
    """Where a pod's packets go by a way of their own: namespace and address."""
    index = list(IPS).index(family)
    node = world.lab.node("node1")
    pods = {pod: (NETNS_DIR / world.pods[pod]["netns"], world.pods[pod]["ips"][index]) for pod in ("same", "other")}
    outside = {"outside": (world.lab.netns("ext-outside"), IPS[family])}
    return pods | outside | {"its node": (world.lab.netns(node.name), node.ips[index])}


@each_family
async def test_large_datagrams_go_every_way_and_back(world: World, family: socket.AddressFamily) -> None:
    """In fragments, of which all but the first have no ports."""
    loop, data = asyncio.get_running_loop(), os.urandom(20_000)
    for _, (namespace, ip) in ends(world, family).items():
        with (
            open_socket(namespace, family, UDP) as server,
            open_socket(NETNS_DIR / world.pods["one"]["netns"], family, UDP) as client,
        ):
            server.bind((ip, PORT))
            client.connect((ip, PORT))
            async with asyncio.timeout(PATIENCE_S):
                await loop.sock_sendall(client, data)
                received, peer = await loop.sock_recvfrom(server, 1 << 16)
                await loop.sock_sendto(server, received[::-1], peer)
                assert await loop.sock_recv(client, 1 << 16) == data[::-1]


@pytest.mark.parametrize("world", ["native"], indirect=True)
async def test_what_is_exempt_leaves_as_it_is(world: World) -> None:
    world.config.write_text(f'nonMasqueradeCIDRs: ["{OUTSIDE.ip}/32", "2001:db8::/32"]\n')
    for family in IPS:

        async def sees_the_pod(family: int = family) -> bool:
            with world.listening(family, TCP) as server, await world.connected("one", family, TCP, PORT):
                return (await answer(server, TCP))[0] in world.pods["one"]["ips"]

        async with asyncio.timeout(PATIENCE_S):
            while not await sees_the_pod():
                pass


async def test_a_pod_that_is_not_known_yet_is_never_spoken_to_as_the_node(world: World) -> None:
    """It would be let in where nodes are, whatever its policy says of the pod that asks."""
    lab = world.lab.name
    api.pause(lab, "node1")
    try:
        late = await api.add_pod(lab, "shop/late", "node2")
        for family, ip in zip(IPS, late["ips"], strict=True):
            with open_socket(NETNS_DIR / late["netns"], family, TCP) as server:
                server.bind((ip, PORT))
                server.listen()
                with open_socket(NETNS_DIR / world.pods["one"]["netns"], family, TCP) as client:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1):
                            await asyncio.get_running_loop().sock_connect(client, (ip, PORT))
                    with contextlib.suppress(BlockingIOError):
                        connection, peer = server.accept()
                        with connection:
                            assert peer[0] in world.pods["one"]["ips"]
    finally:
        api.resume(lab, "node1")
