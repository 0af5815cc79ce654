"""Everything over IPv6: replicas, their metrics and etcd at [::1]; nodes and endpoints of one family and of both."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from kilim.controlplane.api.patience import close_connection
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.v1 import controlplane_pb2 as api
from tests.contract.agent.test_memory import agents
from tests.contract.cli.world import kilim
from tests.contract.controlplane.harness import PATIENCE_S, Running, policy, replica
from tests.contract.controlplane.test_digests import agent, of
from tests.contract.controlplane.test_metrics import of as series
from tests.contract.controlplane.test_metrics import scrape, values

pytestmark = pytest.mark.asyncio(loop_scope="session")

LISTEN = ("[::1]:0",)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def etcd_ipv6(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedEtcd]:
    folder: Path = tmp_path_factory.mktemp("etcd6")
    async with EmbeddedEtcd(folder, bind_address="::1") as running:
        yield running


def free_address() -> str:
    with socket.socket(socket.AF_INET6) as bound:
        bound.bind(("::1", 0))
        return f"[::1]:{bound.getsockname()[1]}"


async def fill(r: Running) -> int:
    """Nodes and pods of both families, of IPv6 alone, of IPv4 alone."""
    await r.register_node("node1", "192.0.2.1", ipv6="2001:db8:0::1")
    await r.register_node("node2", "", ipv6="2001:db8::2")
    await r.register_node("node3", "192.0.2.3")
    seq = 0
    for number, (ip, ipv6) in enumerate(
        [("10.244.0.2", "fd00:10:244::2"), ("", "fd00:10:244:1::2"), ("10.244.1.2", "")], 1
    ):
        request = api.RegisterEndpointRequest(
            node=f"node{number}", namespace="shop", name=f"p{number}", ip=ip, ipv6=ipv6, endpoint_id=number
        )
        seq = (await r.nodes.RegisterEndpoint(request, timeout=PATIENCE_S)).seq
    return seq


async def test_replicas_and_etcd_over_ipv6(etcd_ipv6: EmbeddedEtcd, cluster: str) -> None:
    metrics = free_address()
    endpoints = etcd_ipv6.endpoints
    assert all("//[::1]:" in each for each in endpoints)
    async with (
        replica(endpoints, cluster, "r1", listen=LISTEN, prometheus_serve_addr=metrics) as one,
        replica(endpoints, cluster, "r2", listen=LISTEN) as two,
    ):
        assert one.address.startswith("[::1]:")
        seq = await fill(one)
        status = await one.until(lambda status: [each.seq for each in status.replicas] == [seq, seq])
        assert [each.address for each in status.replicas] == [one.address, two.address]
        assert values(await scrape(metrics))[series("kilim_log_seq")] == seq
        code, stdout, _ = await kilim("get", "nodes,endpoints", "-A", "--server", f"{two.address},{one.address}")
        assert code == 0
        rows = [line.split() for line in stdout.splitlines() if line]
        assert [row[:3] for row in rows if row[0].startswith("node")] == [
            ["node/node1", "192.0.2.1,2001:db8::1", "10.244.0.0/24,fd00:10:244::/64"],
            ["node/node2", "2001:db8::2", "fd00:10:244:1::/64"],
            ["node/node3", "192.0.2.3", "10.244.1.0/24"],
        ]
        assert [row[4] for row in rows if row[0] == "shop"] == [
            "10.244.0.2,fd00:10:244::2", "fd00:10:244:1::2", "10.244.1.2",
        ]  # fmt: skip
        _, stdout, _ = await kilim("status", "-o", "wide", "--server", two.address)
        assert "192.0.2.1,2001:db8::1" in stdout
        _, stdout, _ = await kilim("log", "show", "-o", "json", "--server", two.address)
        entries = map(json.loads, stdout.splitlines())
        shown = [entry["what"]["node"] for entry in entries if entry["event"] == "NodeJoined"]
        assert [(node["ip"], node["ipv6"]) for node in shown] == [
            ("192.0.2.1", "2001:db8::1"), (None, "2001:db8::2"), ("192.0.2.3", None),
        ]  # fmt: skip


async def test_agents_over_ipv6(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    families = {
        "node1": {"node_ipv6": "2001:db8::1", "pod_cidrs": ()},
        "node2": {"node_ip": "", "node_ipv6": "2001:db8::2", "pod_cidrs": ()},
        "node3": {"pod_cidrs": ()},
    }
    async with replica(etcd.endpoints, cluster, listen=LISTEN) as r:
        head = await fill(r)
        await r.apply(policy("closed"), policy("some", "fd00:10:244::/56", "10.244.0.0/16"))
        async with agents(r.address, tmp_path, *families, **families):
            await r.until(lambda status: all(node.up and node.seq > head for node in status.nodes))
            await r.until(lambda status: {node.table_comparison for node in status.nodes} == {api.MATCH})
            status = await r.until(lambda status: status.ok)
            assert {node.routing_mode for node in status.nodes} == {"tunnel"}
            code, stdout, _ = await kilim("verify", "--server", r.address)
            assert (code, stdout.count(" ok")) == (0, 3), stdout
            nodes = {node.name: (node.ip, node.ipv6, list(node.pod_cidrs)) for node in status.nodes}
            assert nodes["node2"] == ("", "2001:db8::2", ["fd00:10:244:1::/64"])


async def test_what_a_request_breaks_is_named(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        for ipv6, words in (("::1", "::1 is not an address"), ("2001:db8::1%eth0", "has a zone"), ("x" * 300, "long")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await r.register_node("node1", "192.0.2.1", ipv6=ipv6)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "ipv6: " in str(caught.value.details()) and words in str(caught.value.details())


async def test_nodes_that_route_differently_are_named(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r, agent(r, "node1") as one, agent(r, "node2") as two:
        await fill(r)
        head = (await r.status()).seq
        await one.report(head, routing_mode="tunnel")
        await two.report(head, routing_mode="tunnel")
        status = await r.until(lambda status: of(status, "node2").routing_mode == "tunnel")
        assert not any("routing-mode" in problem for problem in status.problems)
        await two.report(head, routing_mode="native")
        problem = "routing-mode differs between nodes: node1 tunnel, node2 native"
        await r.until(lambda status: problem in status.problems and not status.ok)
        code, stdout, _ = await kilim("status", "--server", r.address)
        assert (code, problem in stdout) == (1, True)
        two.call.cancel()
        await r.until(lambda status: not of(status, "node2").up and problem not in status.problems)


async def test_a_connection_over_ipv6_can_be_closed() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("::1", port)) as client, server.accept()[0] as served:
            ours = client.getsockname()[1]
            assert not close_connection(f"ipv6:%5B::2%5D:{ours}", {port})
            assert close_connection(f"ipv6:%5B::1%5D:{ours}", {port})
            assert (client.recv(1), served.recv(1)) == (b"", b"")
