"""Agents with --sockops-enable: what pods of a node write to one another passes no device, for as long as policy has it
so, whatever becomes of the agent."""

import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kilim.agent.netlink.session import open_netlink
from kilim.lab import api
from kilim.lab.client import ControlPlane
from kilim.lab.cluster import ClusterSpec, bring_up, take_down
from kilim.lab.commands import replica_targets
from kilim.lab.names import NETNS_DIR
from kilim.lab.netns import in_netns, open_socket
from kilim.lab.topology import Lab, default_node_plans
from tests.lab.test_address import until

PORT, WRITES = 7200, 300
PATIENCE_S = 20.0
FAMILIES = [socket.AF_INET, socket.AF_INET6]
DENY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "nobody", "namespace": "shop"},
    "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"]},
}


@dataclass
class World:
    lab: Lab
    pods: dict[str, dict[str, Any]]

    def netns(self, pod: str) -> Path:
        return NETNS_DIR / self.pods[pod]["netns"]

    def connect(self, family: int) -> tuple[socket.socket, socket.socket]:
        with open_socket(self.netns("server"), family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.pods["server"]["ips"][FAMILIES.index(family)], PORT))
            listener.listen()
            client = open_socket(self.netns("client"), family, socket.SOCK_STREAM)
            listener.settimeout(PATIENCE_S)
            client.settimeout(PATIENCE_S)
            client.connect(listener.getsockname()[:2])
            server, _ = listener.accept()
            server.settimeout(PATIENCE_S)
            return client, server

    def packets(self) -> int:
        """Through the pods' devices, on the node."""

        def count() -> int:
            with open_netlink() as ipr:
                links = [each for each in ipr.get_links() if each.get_attr("IFLA_IFNAME").startswith("lxc")]
                return sum(int(each.get_attr("IFLA_STATS64")["rx_packets"]) for each in links)

        return in_netns(self.lab.netns("node1"), count)


@pytest.fixture
async def world(name_prefix: str) -> AsyncIterator[World]:
    name = f"{name_prefix}-so"
    spec = ClusterSpec(name, default_node_plans(1), 1, 1, agent_options=("--sockops-enable",))
    try:
        lab = await bring_up(spec)
        labels = {"server": {"app": "server"}, "client": {}}
        pods = {pod: await api.add_pod(name, f"shop/{pod}", "node1", labels=labels[pod]) for pod in labels}
        yield World(lab, pods)
    finally:
        take_down(name)


def write_and_read(client: socket.socket, server: socket.socket) -> None:
    for sender, receiver in ((client, server), (server, client)):
        for number in range(WRITES):
            word = f"{number:08}".encode()
            sender.sendall(word)
            assert receiver.recv(8, socket.MSG_WAITALL) == word


async def test_what_is_written_passes_no_device_and_is_policys(world: World) -> None:
    connections = [world.connect(family) for family in FAMILIES]
    before = world.packets()
    for ends in connections:
        write_and_read(*ends)
    assert world.packets() - before < WRITES / 2, "others may have sent a few"
    api.kill(world.lab.name, "node1")
    for ends in connections:
        write_and_read(*ends)
    api.restart(world.lab.name, "node1")
    async with ControlPlane(replica_targets(world.lab)) as plane:
        await until(plane, lambda status: status.nodes[0].up)
        await plane.wait(await plane.apply([("test", DENY)]), PATIENCE_S)
        for client, server in connections:
            client.sendall(b"too late")
            server.settimeout(0.5)
            with pytest.raises(TimeoutError):
                server.recv(8)
        await plane.wait(await plane.delete("NetworkPolicy", "shop", "nobody", "test"), PATIENCE_S)
    for client, server in connections:
        server.settimeout(PATIENCE_S)
        assert server.recv(8, socket.MSG_WAITALL) == b"too late"
        write_and_read(client, server)
        client.close()
        server.close()
    for family in FAMILIES:
        client, server = world.connect(family)
        before = world.packets()
        write_and_read(client, server)
        assert world.packets() - before < WRITES / 2, "directly again, over the agent's restart"
        client.close()
        server.close()
