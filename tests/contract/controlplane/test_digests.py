"""Digests against one another: tables of nodes with what a replica reckons, replicas with each other and their logs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kilim.controlplane.replica import Replica
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.snapshots import SnapshotStore
from kilim.model.node_tables import NodeTables
from kilim.model.state import State
from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import events_pb2 as pb
from tests.contract.controlplane.harness import Follower, Running, policy, replica

pytestmark = pytest.mark.asyncio(loop_scope="session")


@dataclasses.dataclass(slots=True)
class Agent:
    """Follows the log and reports, with its own reckoning of its tables."""

    running: Running
    node: str
    call: Any
    follower: Follower

    async def report(self, seq: int, **wrong: Any) -> None:
        await self.follower.follow(self.running, seq)
        tables = NodeTables(self.node)
        tables.rebuild(self.follower.state)
        said = {"seq": seq, "state_digest": self.follower.state.digest, "table_digest": tables.digest}
        await self.call.write(api.NodeReport(node=self.node, **{**said, **wrong}))


@contextlib.asynccontextmanager
async def agent(r: Running, node: str) -> AsyncIterator[Agent]:
    call = r.nodes.Report()
    try:
        yield Agent(r, node, call, Follower(State()))
    finally:
        call.cancel()


async def fill(r: Running, nodes: int = 2, pods: int = 6) -> int:
    for number in range(1, nodes + 1):
        await r.register_node(f"node{number}", f"192.0.2.{number}", f"10.1.{number}.0/24")
    for number in range(pods):
        node = number % nodes + 1
        await r.register_endpoint(
            f"node{node}", f"p{number}", f"10.1.{node}.{number + 2}", number + 1, app=f"a{number}"
        )
    return (await r.apply(policy("closed"), policy("some", "10.9.0.0/16"))).seq


def of(status: api.StatusResponse, node: str) -> api.NodeStatus:
    return next(each for each in status.nodes if each.name == node)


async def test_the_tables_of_every_node_are_compared(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r, agent(r, "node1") as one, agent(r, "node2") as two:
        head = await fill(r)
        await one.report(head)
        await two.report(head)
        status = await r.until(lambda status: all(node.table_comparison == api.MATCH for node in status.nodes))
        assert status.ok
        verdicts = {(node.state_comparison, node.kernel_comparison) for node in status.nodes}
        assert verdicts == {(api.MATCH, api.NOT_COMPARED)}
        await r.register_endpoint("node2", "late", "10.1.2.99", 99, app="late")
        status = await r.status()
        assert [(node.lag_events > 0, node.lag_ms >= 0) for node in status.nodes] == [(True, True)] * 2
        await one.report(status.seq)
        await two.report(status.seq)
        status = await r.until(lambda status: status.ok and all(node.lag_events == 0 for node in status.nodes))
        assert {node.lag_ms for node in status.nodes} == {0}


async def test_a_node_with_wrong_tables_is_an_alarm_until_it_agrees(etcd: EmbeddedEtcd, cluster: str) -> None:
    wrong = b"w" * 32
    async with replica(etcd.endpoints, cluster) as r, agent(r, "node1") as one:
        head = await fill(r, nodes=1)
        await one.report(head, table_digest=wrong)
        status = await r.until(lambda status: of(status, "node1").table_comparison == api.DIFFERS)
        assert not status.ok and of(status, "node1").state_comparison == api.MATCH
        (problem,) = status.problems
        assert problem.startswith(f"node node1: table digest at seq {head} is {wrong.hex()}, this replica has ")
        await one.report(head)
        status = await r.until(lambda status: status.ok)
        right = of(status, "node1").table_digest
        assert problem.endswith(right.hex())
        await one.report(head, kernel_seq=head, kernel_digest=wrong, drift_repairs=3)
        status = await r.until(lambda status: of(status, "node1").kernel_comparison == api.DIFFERS)
        assert of(status, "node1").drift_repairs == 3
        assert status.problems == [
            f"node node1: table digest read back from its kernel at seq {head} is {wrong.hex()}, "
            f"this replica has {right.hex()}"
        ]
        await one.report(head, kernel_seq=head, kernel_digest=right, drift_repairs=3)
        await r.until(lambda status: status.ok and of(status, "node1").kernel_comparison == api.MATCH)


async def test_an_early_report_is_compared_when_the_replica_is_there(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r, agent(r, "node1") as one:
        head = await fill(r, nodes=1)
        await one.call.write(api.NodeReport(node="node1", seq=head + 1, table_digest=b"e" * 32))
        status = await r.until(lambda status: of(status, "node1").up)
        assert (of(status, "node1").table_comparison, of(status, "node1").lag_events) == (api.NOT_COMPARED, 0)
        await r.apply(policy("late"))
        await r.until(lambda status: of(status, "node1").table_comparison == api.DIFFERS)


async def test_one_who_was_ahead_of_the_log_is_compared_when_he_goes_back(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r, agent(r, "node1") as one:
        head = await fill(r, nodes=1)
        far, wrong = head + 1000, b"f" * 32
        await one.call.write(
            api.NodeReport(node="node1", seq=far, table_digest=wrong, kernel_seq=far, kernel_digest=wrong)
        )
        await r.until(lambda status: of(status, "node1").seq == head + 1000)
        await one.report(head, table_digest=b"w" * 32, kernel_seq=head, kernel_digest=b"w" * 32)
        status = await r.until(lambda status: of(status, "node1").kernel_comparison == api.DIFFERS)
        node = of(status, "node1")
        assert (node.table_comparison, node.state_comparison) == (api.DIFFERS, api.MATCH)


async def test_what_is_never_compared_is_a_problem(
    etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilim.controlplane.reports.ODD_S", 0.0)
    async with replica(etcd.endpoints, cluster) as first:
        head = await fill(first, nodes=1)
    async with replica(etcd.endpoints, cluster) as r, agent(r, "node1") as one:
        await one.call.write(api.NodeReport(node="node1", seq=head + 1000, state_digest=b"f" * 32))
        status = await r.until(lambda status: of(status, "node1").seq == head + 1000)
        (problem,) = status.problems
        assert problem == f"node node1: reports event {head + 1000} for 0 s, this replica's log ends at {head}"
        await one.call.write(
            api.NodeReport(node="node1", seq=head - 1, table_digest=b"f" * 32)
        )  # the replica began with `head`: it knows no tables before it
        words = "node node1: its table digest has not been compared for"
        await r.until(lambda status: any(problem.startswith(words) for problem in status.problems))
        await one.report(head)
        await r.until(lambda status: status.ok)


async def test_a_state_that_was_changed_behind_a_replicas_back(
    etcd: EmbeddedEtcd, cluster: str, replicas: list[Replica]
) -> None:
    """It knows itself, the other one knows, and both say so until the state is again what the log gives."""
    async with replica(etcd.endpoints, cluster, "r1") as one, replica(etcd.endpoints, cluster, "r2") as two:
        head = await fill(one, nodes=1)
        for each in (one, two):
            await each.until(lambda status: status.seq == head and len(status.replicas) == 2)
            await each.until(lambda status: all(each.comparison == api.MATCH for each in status.replicas))
        healthy = replicas[1].state.digest
        forged = pb.Setting(name="forged", value="1").SerializeToString()
        change = replicas[1].state.put("setting", "forged", forged)
        assert change is not None
        broken = replicas[1].state.digest
        status = await one.until(lambda status: any(each.comparison == api.DIFFERS for each in status.replicas))
        assert [(each.name, each.comparison) for each in status.replicas] == [("r1", api.MATCH), ("r2", api.DIFFERS)]
        words = f"state digest at seq {head} is {broken.hex()}, this replica has {healthy.hex()}"
        assert f"replica r2: {words}" in status.problems
        status = await two.until(lambda status: any("its events give" in problem for problem in status.problems))
        assert next(each for each in status.replicas if each.self).comparison == api.DIFFERS
        words = f"its state digest at seq {head} is {broken.hex()}, its events give {healthy.hex()}"
        assert f"this replica: {words}" in status.problems
        more = (await one.apply(policy("later"))).seq  # the difference goes on with the log
        await two.until(lambda status: any(f"at seq {more} is" in problem for problem in status.problems))
        replicas[1].state.undo([change])
        again = (await one.apply(policy("last"))).seq
        for each in (one, two):
            await each.until(
                lambda status: status.seq == again and all(r.comparison == api.MATCH for r in status.replicas)
            )


async def test_replicas_agree_at_checkpoints_too(
    etcd: EmbeddedEtcd, cluster: str, replicas: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other one says of its head may be ahead of us; checkpoints are not."""
    monkeypatch.setattr("kilim.controlplane.agreement.CHECKPOINT_EVENTS", 4)
    async with replica(etcd.endpoints, cluster, "r1") as one:
        head = await one.fill(10)
        status = await one.status()
        assert [each.seq for each in status.checkpoints] == [4, 8]
        assert status.checkpoints[-1].state_digest == replicas[0].history.digest_at(8)
        assert head == 10


async def test_a_snapshot_of_another_state_is_an_alarm_until_it_is_gone(
    etcd: EmbeddedEtcd, cluster: str, replicas: list[Replica]
) -> None:
    wrong = b"w" * 32
    client = EtcdClient(etcd.endpoints)
    snapshots = SnapshotStore(client, cluster)
    try:
        async with replica(etcd.endpoints, cluster, keep_every_s=0.05) as r:
            head = await r.fill(3)
            status = await r.until(lambda status: status.ok)
            await snapshots.publish(head, status.chain, wrong, 1, [])
            ours = status.state_digest.hex()
            problem = f"newest snapshot: its state digest at seq {head} is {wrong.hex()}, this replica has {ours}"
            await r.until(lambda status: problem in status.problems)
            status = await r.until(lambda status: problem not in status.problems)
            assert await snapshots.manifests() == []
            (line,) = status.problems  # the log has spoken: it was the snapshot
            assert line.startswith(f"snapshot at event {head} is not of this log: its state digest is {wrong.hex()}")
    finally:
        await client.close()


async def test_an_auditor_left_behind_begins_again(etcd: EmbeddedEtcd, cluster: str, replicas: list[Replica]) -> None:
    """What the history no longer has cannot be followed, so the state is copied anew."""
    async with replica(etcd.endpoints, cluster, history_bytes=600) as r, agent(r, "node1") as one:
        await fill(r, nodes=1)
        await r.fill(30)
        head = (await r.apply(policy("last"))).seq
        assert replicas[0].history.first_seq > 20
        await one.report(head)
        await r.until(lambda status: status.ok and of(status, "node1").table_comparison == api.MATCH)
