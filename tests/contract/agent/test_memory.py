"""Agents whose datapath is in memory: several in one loop, everything else real: etcd, replica, streams, sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from kilim.agent.runtime import serve
from kilim.agent.settings import Settings
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.model.tables import Tables, unpack_rows
from kilim.v1 import agent_pb2, agent_pb2_grpc
from kilim.v1 import controlplane_pb2 as pb
from tests.contract.controlplane.harness import PATIENCE_S, Running, policy, replica


@contextlib.asynccontextmanager
async def agents(server: str, directory: Path, *names: str, **more: dict[str, str]) -> AsyncIterator[None]:
    """`more`: other settings of a node, by its name."""
    stop = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            for number, name in enumerate(names, 1):
                where = directory / name
                settings = Settings(
                    name, f"192.0.2.{number}", (server,), state_dir=where / "state", run_dir=where / "run",
                    datapath_mode="memory", pod_cidrs=(f"10.244.{number - 1}.0/24",),
                )  # fmt: skip
                settings = replace(settings, **more.get(name, {}))  # type: ignore[arg-type]  # names of its fields
                group.create_task(serve(settings, stop), name=f"agent {name}")
            try:
                yield
            finally:
                stop.set()
    finally:
        stop.set()


async def status_of(directory: Path, name: str) -> agent_pb2.AgentStatusResponse:
    async with grpc.aio.insecure_channel(f"unix:{directory / name / 'run' / 'agent.sock'}") as channel:
        call = agent_pb2_grpc.AgentStub(channel).Status(agent_pb2.AgentStatusRequest(), wait_for_ready=True, timeout=5)
        answer: agent_pb2.AgentStatusResponse = await call
        return answer


async def rows_of(directory: Path, name: str, table: str) -> list[list[str]]:
    async with grpc.aio.insecure_channel(f"unix:{directory / name / 'run' / 'agent.sock'}") as channel:
        request = agent_pb2.DumpTableRequest(table=table, kernel=True)
        return [list(row.cells) for row in (await agent_pb2_grpc.AgentStub(channel).DumpTable(request)).rows]


async def all_enforce(r: Running, seq: int) -> None:
    answer = await r.cluster.Wait(pb.WaitRequest(seq=seq, timeout_ms=int(PATIENCE_S * 1000)), timeout=PATIENCE_S)
    assert (answer.done, list(answer.down)) == (True, [])


async def read_tables(r: Running, node: str) -> tuple[Tables, pb.TablesPart]:
    """The rows, and the last part."""
    found = Tables()
    async for part in r.cluster.ReadTables(pb.ReadTablesRequest(node=node), timeout=PATIENCE_S):
        if part.table:
            unpack_rows(part.table, part.rows, found)
    return found, part


async def test_a_replica_passes_on_the_rows_that_a_node_holds(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    async with replica(etcd.endpoints, cluster) as r, agents(r.address, tmp_path, "node1", "node2"):
        await r.until(lambda status: len(status.nodes) == 2 and all(node.up for node in status.nodes))
        await r.register_endpoint("node1", "web", "10.244.0.9", 7, app="web")
        head = (await r.apply(policy("closed", "10.0.0.0/8"))).seq
        await all_enforce(r, head)
        answers = await asyncio.gather(*(read_tables(r, node) for node in ("node1", "node2") for _ in range(6)))
        for found, last in answers:
            assert (last.seq, last.last, last.error) == (head, True, "")
            assert found.digest() == last.table_digest
        assert {len(found.endpoints) for found, _ in answers[:6]} == {1}
        assert {len(found.endpoints) for found, _ in answers[6:]} == {0}
        status = await r.status()
        assert {node.table_digest for node in status.nodes} == {answers[0][1].table_digest, answers[-1][1].table_digest}


async def test_tables_of_a_node_that_is_not_there(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        with pytest.raises(grpc.aio.AioRpcError, match='node "node1" not found') as unknown:
            await read_tables(r, "node1")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        async with agents(r.address, tmp_path, "node1"):
            await r.until(lambda status: any(node.up and node.seq for node in status.nodes))
            await read_tables(r, "node1")
        await r.until(lambda status: not any(node.up for node in status.nodes))
        with pytest.raises(grpc.aio.AioRpcError, match="node1: its agent is not connected to this replica") as gone:
            await read_tables(r, "node1")
        assert gone.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_agent_that_does_not_answer_is_not_waited_for(
    etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilim.controlplane.table_asks.ANSWER_S", 0.3)
    async with replica(etcd.endpoints, cluster) as r:
        await r.register_node("node1", "192.0.2.1")
        stream = r.nodes.ServeTables()
        await stream.write(pb.TablesAnswer(node="node1"))
        asking = asyncio.ensure_future(read_tables(r, "node1"))
        question = await asyncio.wait_for(stream.read(), PATIENCE_S)
        await stream.write(pb.TablesAnswer(id=question.id + 1, part=pb.TablesPart(last=True)))  # to nobody
        with pytest.raises(grpc.aio.AioRpcError, match="did not answer within 0.3 s"):
            await asking
        asking = asyncio.ensure_future(read_tables(r, "node1"))
        question = await asyncio.wait_for(stream.read(), PATIENCE_S)
        await stream.write(pb.TablesAnswer(id=question.id, part=pb.TablesPart(table="ipcache")))
        stream.cancel()
        with pytest.raises(grpc.aio.AioRpcError, match="went away"):
            await asking


async def test_several_agents_of_one_loop_enforce_in_memory(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    names = ("node1", "node2", "node3")
    async with replica(etcd.endpoints, cluster) as r:
        async with agents(r.address, tmp_path, *names):
            await r.until(lambda status: len(status.nodes) == 3 and all(node.up for node in status.nodes))
            cidr = {node.name: node.pod_cidrs[0] for node in (await r.status()).nodes}
            ip = cidr["node1"].removesuffix("0/24") + "9"
            await r.register_endpoint("node1", "web", ip, 7, app="web")
            head = (await r.apply(policy("closed"))).seq
            await all_enforce(r, head)
            found = [await status_of(tmp_path, name) for name in names]
            assert [each.seq for each in found] == [head] * 3
            assert len({each.state_digest for each in found}) == 1 and all(each.in_sync for each in found)
            assert [row[:2] for row in await rows_of(tmp_path, "node1", "endpoints")] == [[ip, "7"]]
            assert await rows_of(tmp_path, "node2", "endpoints") == []
            tunnels = {name: await rows_of(tmp_path, name, "ipcache") for name in names}
            assert [row[2] for row in tunnels["node1"] if row[0] == f"{ip}/32"] == ["-"]
            assert [row[2] for row in tunnels["node3"] if row[0] == f"{ip}/32"] == ["192.0.2.1"]
            assert not await rows_of(tmp_path, "node1", "ct")
        await r.until(lambda status: not any(node.up for node in status.nodes))
        async with agents(r.address, tmp_path, "node1"):  # from its cache: nothing is in memory any more
            await r.until(lambda status: any(node.up and node.seq == head for node in status.nodes))
            assert [row[:2] for row in await rows_of(tmp_path, "node1", "endpoints")] == [[ip, "7"]]
