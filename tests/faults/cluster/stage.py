"""The lab under test with a client of every replica and agent, and what must be equal once all is calm again.

Easy to get wrong: `check_agreement` recomputes everything from what etcd holds; no process is asked what ought to be.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import grpc
import grpc.aio

from kilim.agent.core.dump import DESIRED, dump_desired
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import Commit
from kilim.kvstore.errors import Unavailable
from kilim.kvstore.log import EventLog
from kilim.lab import cgroup, commands, faults
from kilim.lab.client import ControlPlane
from kilim.lab.pods import RunningPod, by_key, running_pods
from kilim.lab.process import pid_of
from kilim.lab.topology import Lab
from kilim.model.desired import desired_tables
from kilim.model.fold import fold_record
from kilim.model.state import State
from kilim.v1 import agent_pb2, agent_pb2_grpc, controlplane_pb2_grpc
from kilim.v1 import controlplane_pb2 as api

PATIENCE_S = 40.0
CALL_S = 5.0
POLL_S = 0.05
SEEDS = [int(seed) for seed in os.environ.get("KILIM_FAULT_SEEDS", "1").split(",")]
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.max_receive_message_length", -1),
]

T = TypeVar("T")


async def until(what: str, look: Callable[[], Awaitable[T]], patience_s: float = PATIENCE_S) -> T:
    """The first answer that is true; a refused assertion or call is looked at again, and told where time is over."""
    deadline = time.monotonic() + patience_s
    while True:
        reason = ""
        try:
            if found := await look():
                return found
        except (AssertionError, grpc.aio.AioRpcError, Unavailable) as error:
            reason = f": {error.details() if isinstance(error, grpc.aio.AioRpcError) else error}"
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience_s:g} s: {what}{reason}")
        await asyncio.sleep(POLL_S)


class Replica:
    """One replica by its Unix socket, which no partition cuts."""

    def __init__(self, name: str, target: str) -> None:
        self.name = name
        self.channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        self.resources = controlplane_pb2_grpc.ResourcesStub(self.channel)
        self.nodes = controlplane_pb2_grpc.NodesStub(self.channel)
        self.cluster = controlplane_pb2_grpc.ClusterStub(self.channel)

    async def status(self, timeout_s: float = CALL_S) -> api.StatusResponse:
        answer: api.StatusResponse = await self.cluster.Status(api.StatusRequest(), timeout=timeout_s)
        return answer

    async def apply(
        self, *objects: dict[str, Any], actor: str = "test", timeout_s: float = CALL_S
    ) -> api.ApplyResponse:
        manifests = [api.Manifest(json=json.dumps(body), source="test") for body in objects]
        request = api.ApplyRequest(manifests=manifests, actor=actor)
        answer: api.ApplyResponse = await self.resources.Apply(request, timeout=timeout_s)
        return answer

    async def delete(
        self, kind: str, namespace: str, name: str, actor: str = "test", timeout_s: float = CALL_S
    ) -> api.DeleteResponse:
        ref = api.ResourceRef(kind=kind, namespace=namespace, name=name, source="test")
        request = api.DeleteRequest(refs=[ref], actor=actor, ignore_not_found=True)
        answer: api.DeleteResponse = await self.resources.Delete(request, timeout=timeout_s)
        return answer

    async def names(self, kind: str, namespace: str = "") -> set[str]:
        """`namespace/name` of everything of that kind."""
        answer = await self.resources.List(api.ListRequest(kind=kind, namespace=namespace), timeout=CALL_S)
        return {f"{item.namespace}/{item.name}" for item in answer.items}


class Stage:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        targets = commands.replica_targets(lab)
        self.replicas = [Replica(r.name, target) for r, target in zip(lab.replicas, targets, strict=True)]
        self.plane = ControlPlane(targets, PATIENCE_S)

    async def close(self) -> None:
        await self.plane.__aexit__(None, None, None)
        await asyncio.gather(*(replica.channel.close() for replica in self.replicas))

    @property
    def replica_names(self) -> list[str]:
        return [replica.name for replica in self.replicas]

    def pods(self) -> dict[str, RunningPod]:
        return by_key(running_pods(self.lab))

    # --- hurting

    def kill(self, *processes: str) -> None:
        for process in processes:
            faults.kill(self.lab, process)

    def pause(self, *processes: str) -> None:
        for process in processes:
            faults.pause(self.lab, process)

    def resume(self, *processes: str) -> None:
        for process in processes:
            faults.resume(self.lab, process)

    async def restart(self, *processes: str) -> None:
        for process in processes:
            await asyncio.to_thread(faults.restart, self.lab, process)

    async def mend(self) -> None:
        """Whatever a test has done: everything runs, nothing is cut, all nodes are up and agree."""
        faults.heal(self.lab)
        for name in self.lab.process_names:
            group = cgroup.process_cgroup(self.lab.name, name)
            cgroup.signal_all(group, signal.SIGCONT)
            if pid_of(self.lab.name, name) is None:
                await self.restart(name)
        await self.check_agreement()

    # --- looking

    async def agent_status(self, node: str) -> agent_pb2.AgentStatusResponse:
        async with self._agent(node) as channel:
            stub = agent_pb2_grpc.AgentStub(channel)
            answer: agent_pb2.AgentStatusResponse = await stub.Status(agent_pb2.AgentStatusRequest(), timeout=CALL_S)
            return answer

    async def rows(self, node: str, table: str, kernel: bool) -> tuple[list[str], list[list[str]]]:
        async with self._agent(node) as channel:
            request = agent_pb2.DumpTableRequest(table=table, kernel=kernel)
            answer = await agent_pb2_grpc.AgentStub(channel).DumpTable(request, timeout=CALL_S)
        return list(answer.columns), [list(row.cells) for row in answer.rows]

    def _agent(self, node: str) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"unix:{commands.agent_socket(self.lab, node)}", options=_OPTIONS)

    async def read_log(self) -> list[Commit]:
        """All of it, out of etcd; dense, with a whole chain, or LogBroken."""
        client = EtcdClient([f"http://{member.loopback}" for member in self.lab.etcd])
        try:
            async with aclosing(EventLog(client, commands.CLUSTER).read(1)) as commits:
                return [commit async for commit in commits]
        finally:
            await client.close()

    async def folded(self) -> State:
        return fold(await self.read_log())

    async def check_agreement(self, patience_s: float = PATIENCE_S) -> State:
        """Replicas, agents and kernels are all exactly at what etcd's log gives; that state."""
        return await until("all agree with the log", self._agreed, patience_s)

    async def _agreed(self) -> State:
        await self._same_everywhere()  # cheap, and mostly what there is to wait for
        commits = await self.read_log()
        state, chain = fold(commits), commits[-1].chain_after
        for replica in self.replicas:
            status = await replica.status()
            at = (status.seq, status.state_digest, status.chain)
            assert at == (state.seq, state.digest, chain), f"{replica.name} is at seq {status.seq}, not {state.seq}"
            well = [node for node in status.nodes if node.up and node.seq == state.seq]
            up = {node.name for node in well if node.state_comparison == api.MATCH}
            assert up >= set(self.lab.agent_processes), f"{replica.name} sees {sorted(up)} at seq {state.seq}"
            expected = tuple(f"node {node}: its agent does not report" for node in strangers(self.lab, state))
            problems = [each for each in status.problems if not (expected and each.startswith(expected))]
            assert not problems, f"{replica.name}: {problems}"
        for node in self.lab.agent_processes:
            await self._agent_agreed(node, state)
        return state

    async def _same_everywhere(self) -> None:
        at = {replica.name: (await replica.status()).seq for replica in self.replicas}
        at |= {node: (await self.agent_status(node)).seq for node in self.lab.agent_processes}
        assert len(set(at.values())) == 1, f"not at one seq: {at}"

    async def _agent_agreed(self, node: str, state: State) -> None:
        tables = desired_tables(state, node)
        status = await self.agent_status(node)
        assert status.in_sync and not status.errors, f"{node}: in_sync {status.in_sync}, {list(status.errors)}"
        assert status.seq == state.seq, f"{node} is at seq {status.seq}, not {state.seq}"
        assert status.state_digest == state.digest, f"{node}: another state digest"
        assert status.table_digest == tables.digest(), f"{node}: another table digest"
        for table in DESIRED:
            wanted = dump_desired(tables, table)
            for kernel in (False, True):
                columns, rows = await self.rows(node, table, kernel)
                missing = [row for row in wanted[1] if row not in rows]
                extra = [row for row in rows if row not in wanted[1]]
                where = f"{table} of {node}, {'kernel' if kernel else 'desired'}"
                assert (columns, sorted(rows)) == (wanted[0], sorted(wanted[1])), f"{where}: -{missing} +{extra}"


def fold(commits: Sequence[Commit]) -> State:
    state, seq = State(), 0
    for commit in commits:
        assert commit.first_seq == seq + 1
        for seq, record in enumerate(commit.records, commit.first_seq):
            fold_record(state, seq, record)
    return state


def strangers(lab: Lab, state: State) -> list[str]:
    """Nodes that a test has registered without an agent."""
    return sorted(set(state.nodes) - set(lab.agent_processes))
