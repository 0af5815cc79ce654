"""What nodes must know first is appended first, and the rest when those that are up have reported it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.v1 import controlplane_pb2 as api
from tests.contract.controlplane.harness import PATIENCE_S, Running, namespace, policy, replica

pytestmark = pytest.mark.asyncio(loop_scope="session")

Report = Callable[[int], Awaitable[None]]


@asynccontextmanager
async def node(r: Running, name: str, ip: str) -> AsyncIterator[Report]:
    """A node whose agent says how far it is."""
    await r.register_node(name, ip)
    stream = r.nodes.Report()

    async def report(seq: int) -> None:
        await stream.write(api.NodeReport(node=name, seq=seq))

    await report((await r.status()).seq)
    await r.until(lambda status: any(each.name == name and each.up for each in status.nodes))
    try:
        yield report
    finally:
        stream.cancel()


async def test_each_phase_waits_for_all_nodes_that_are_up(
    etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilim.controlplane.phases.PATIENCE_S", PATIENCE_S)
    async with (
        replica(etcd.endpoints, cluster) as r,
        node(r, "node1", "192.0.2.1") as one,
        node(r, "node2", "192.0.2.2") as two,
    ):
        adding = asyncio.create_task(r.register_endpoint("node1", "a", "10.244.0.3", 1), name="add")
        await r.until(lambda status: status.seq == 3)  # the identity
        await one(3)
        await two(2)
        assert not (await asyncio.wait([adding], timeout=0.1))[0] and (await r.status()).seq == 3
        await two(3)
        assert (await adding).seq == 4

        applying = asyncio.create_task(r.apply(policy("p", "10.244.0.0/24")), name="apply")
        for seq in (5, 6):  # the identity with the prefix; the endpoint has it
            await r.until(lambda status, seq=seq: status.seq == seq)  # type: ignore[misc]
            await one(seq)
            assert not (await asyncio.wait([applying], timeout=0.1))[0] and (await r.status()).seq == seq
            await two(seq)
        assert (await applying).seq == 8, "the prefix's own identity, and the policy"

        ref = api.ResourceRef(kind="NetworkPolicy", namespace="shop", name="p")
        deleting = asyncio.ensure_future(r.resources.Delete(api.DeleteRequest(refs=[ref], actor="test")))
        await r.until(lambda status: status.seq == 10)
        await asyncio.gather(one(10), two(10))
        assert (await deleting).seq == 10
        await r.until(lambda status: status.seq == 11)  # the label of the prefix goes after the policy


async def test_who_does_not_answer_is_waited_for_once(
    etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilim.controlplane.phases.PATIENCE_S", 0.2)
    async with replica(etcd.endpoints, cluster) as r, node(r, "node1", "192.0.2.1"):
        await r.register_endpoint("node1", "a", "10.244.0.3", 1)
        monkeypatch.setattr("kilim.controlplane.phases.PATIENCE_S", 10 * PATIENCE_S)
        await r.apply(namespace("shop", team="a"))  # would not come back in time
        await r.apply(namespace("shop", team="b"))


async def test_a_dry_run_prepares_nothing(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r, node(r, "node1", "192.0.2.1") as one:
        adding = asyncio.create_task(r.register_endpoint("node1", "a", "10.244.0.3", 1), name="add")
        await r.until(lambda status: status.seq == 2)
        await one(2)
        await adding
        before = (await r.status()).seq
        await r.apply(namespace("shop", team="a"), policy("p", "10.244.0.0/24"), dry_run=True)
        assert (await r.status()).seq == before


async def test_what_is_too_large_is_refused_before_anything_is_prepared(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        await r.register_node("node1", "192.0.2.1")
        await r.register_endpoint("node1", "a", "10.244.0.3", 1)
        before = (await r.status()).seq
        wide = [policy(f"wide{number}", *(f"10.9.{n >> 8}.{n & 255}/32" for n in range(8_000))) for number in range(4)]
        with pytest.raises(grpc.aio.AioRpcError, match="the change is too large to happen at once"):
            await r.apply(policy("p", "10.244.0.0/24"), *wide)  # the first moves the endpoint to another identity
        assert (await r.status()).seq == before
