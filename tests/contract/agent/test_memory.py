"""Agents whose datapath is in memory: several in one loop, everything else real: etcd, replica, streams, sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from kilim.agent.runtime import serve
from kilim.agent.settings import Settings
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.v1 import agent_pb2, agent_pb2_grpc
from kilim.v1 import controlplane_pb2 as pb
from tests.contract.controlplane.harness import PATIENCE_S, Running, policy, replica


@contextlib.asynccontextmanager
async def agents(server: str, directory: Path, *names: str) -> AsyncIterator[None]:
    stop = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            for number, name in enumerate(names, 1):
                where = directory / name
                settings = Settings(
                    name, f"192.0.2.{number}", (server,), state_dir=where / "state", run_dir=where / "run",
                    datapath_mode="memory",
                )  # fmt: skip
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
