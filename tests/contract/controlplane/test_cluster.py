"""Status, reports, waiting, health and reflection."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.model.state import State
from kilim.v1 import controlplane_pb2 as api
from tests.contract.controlplane.harness import PATIENCE_S, Follower, Running, namespace, policy, replica

pytestmark = pytest.mark.asyncio(loop_scope="session")


@contextlib.asynccontextmanager
async def agent(r: Running, node: str) -> AsyncIterator[Any]:
    """A report stream; its `write` is what the agent says."""
    call = r.nodes.Report()
    try:
        yield call
    finally:
        call.cancel()


def report(status: api.StatusResponse, node: str, digest: bytes | None = None) -> api.NodeReport:
    return api.NodeReport(node=node, seq=status.seq, state_digest=digest or status.state_digest)


async def test_a_node_is_well_when_it_reports_our_digest(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        await r.register_node("node1", "192.0.2.1")
        status = await r.status()
        assert not status.ok
        assert "node node1: its agent does not report to this replica" in status.problems
        async with agent(r, "node1") as call:
            await call.write(report(status, "node1"))
            status = await r.until(lambda status: status.ok)
            node = status.nodes[0]
            assert (node.up, node.state_comparison, node.seq, node.lag_events, node.lag_ms) == (
                True,
                api.MATCH,
                1,
                0,
                0,
            )
            assert (node.table_comparison, node.kernel_comparison) == (api.NOT_COMPARED, api.NOT_COMPARED)
            assert (node.name, node.ip, list(node.pod_cidrs)) == ("node1", "192.0.2.1", ["10.244.0.0/24"])
        gone = await r.until(lambda status: not status.nodes[0].up)
        assert gone.nodes[0].seq == 1


async def test_a_wrong_digest_is_an_alarm_also_when_the_report_came_early(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        await r.register_node("node1", "192.0.2.1")
        status = await r.status()
        async with agent(r, "node1") as call:
            await call.write(report(status, "node1", b"x" * 32))
            status = await r.until(lambda status: status.nodes[0].up)
            ours = status.state_digest.hex()
            words = f"node node1: state digest at seq 1 is {(b'x' * 32).hex()}, this replica has {ours}"
            assert words in status.problems and status.nodes[0].state_comparison == api.DIFFERS
            await call.write(report(status, "node1"))
            await r.until(lambda status: status.ok)
            await call.write(api.NodeReport(node="node1", seq=2, state_digest=b"y" * 32))
            await r.until(lambda status: status.nodes[0].seq == 2)
            await r.apply(namespace("a"))
            status = await r.status()
            assert any("state digest at seq 2 is " in problem for problem in status.problems)


async def test_errors_of_a_node_are_problems(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        await r.register_node("node1", "192.0.2.1")
        async with agent(r, "node1") as call:
            await call.write(api.NodeReport(node="node1", seq=1, errors=["map policy is full"]))
            status = await r.until(lambda status: status.nodes[0].up)
            assert status.problems == ["node node1: map policy is full"]


async def test_wait_returns_when_every_node_that_is_up_is_there(
    etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilim.controlplane.reports.FIND_US_S", 0.0)
    async with replica(etcd.endpoints, cluster) as r:
        for number in (1, 2, 3):
            await r.register_node(f"node{number}", f"192.0.2.{number}")
        status = await r.status()
        async with agent(r, "node1") as one, agent(r, "node2") as two:
            await one.write(report(status, "node1"))
            await two.write(api.NodeReport(node="node2", seq=1))
            await r.until(lambda status: status.nodes[0].up and status.nodes[1].up)
            answer = await r.cluster.Wait(api.WaitRequest(seq=3, timeout_ms=10))
            assert (answer.done, [node.name for node in answer.behind], answer.down) == (False, ["node2"], ["node3"])
            waiting = asyncio.ensure_future(r.cluster.Wait(api.WaitRequest(seq=3, timeout_ms=20_000)))
            await two.write(api.NodeReport(node="node2", seq=3))
            answer = await asyncio.wait_for(waiting, PATIENCE_S)
            assert (answer.done, list(answer.behind), answer.down) == (True, [], ["node3"])
            waiting = asyncio.ensure_future(r.cluster.Wait(api.WaitRequest(seq=4, timeout_ms=20_000)))
            await r.apply(namespace("a"))
            await one.write(api.NodeReport(node="node1", seq=4))
            two.cancel()
            answer = await asyncio.wait_for(waiting, PATIENCE_S)
            assert (answer.done, answer.down) == (True, ["node2", "node3"])
        answer = await r.cluster.Wait(api.WaitRequest(seq=9, timeout_ms=10))
        assert not answer.done


async def test_wait_gives_agents_time_to_find_a_replica_that_has_just_started(
    etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilim.controlplane.reports.FIND_US_S", 30.0)
    async with replica(etcd.endpoints, cluster) as r:
        await r.register_node("node1", "192.0.2.1")
        answer = await r.cluster.Wait(api.WaitRequest(seq=1, timeout_ms=10))
        assert (answer.done, [node.name for node in answer.behind], list(answer.down)) == (False, ["node1"], [])
        waiting = asyncio.ensure_future(r.cluster.Wait(api.WaitRequest(seq=1, timeout_ms=20_000)))
        status = await r.status()
        async with agent(r, "node1") as call:
            await call.write(report(status, "node1"))
            answer = await asyncio.wait_for(waiting, PATIENCE_S)
            assert (answer.done, list(answer.down)) == (True, [])


async def test_wait_is_not_done_where_no_node_is_up(
    etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilim.controlplane.reports.FIND_US_S", 0.2)
    async with replica(etcd.endpoints, cluster) as r:
        await r.apply(namespace("a"))
        assert (await r.cluster.Wait(api.WaitRequest(seq=1, timeout_ms=10))).done  # there are no nodes
        await r.register_node("node1", "192.0.2.1")
        answer = await r.cluster.Wait(api.WaitRequest(seq=2, timeout_ms=10_000))
        assert (answer.done, list(answer.behind), list(answer.down)) == (False, [], ["node1"])


async def test_a_stream_is_of_one_node(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        async with agent(r, "node1") as call:
            await call.write(api.NodeReport(node="node1"))
            await call.write(api.NodeReport(node="node2"))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_status_shows_replicas_and_etcd(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster, "r1") as one, replica(etcd.endpoints, cluster, "r2") as two:
        await one.fill(3)
        status = await two.until(lambda s: s.ok and len(s.replicas) == 2 and all(r.seq == 3 for r in s.replicas))
        assert [(r.name, r.address, r.self) for r in status.replicas] == [
            ("r1", one.address, False),
            ("r2", two.address, True),
        ]
        assert {r.state_digest for r in status.replicas} == {status.state_digest}
        status = await two.until(lambda s: sum(r.leader for r in s.replicas) == 1)
        assert status.etcd.reachable and status.etcd.version and status.etcd.db_size_bytes > 0
        assert (list(status.etcd.endpoints), status.etcd.leader) == (etcd.endpoints, etcd.endpoints[0])
    async with replica(etcd.endpoints, cluster, "r3") as three:
        status = await three.status()
        assert status.seq == 3


async def test_settings_and_expiry_of_identities(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster, expiry_every_s=0.05) as r:
        await r.register_node("node1", "192.0.2.1")
        await r.register_endpoint("node1", "a", "10.244.0.3", 1)
        await r.nodes.RemoveEndpoint(api.RemoveEndpointRequest(node="node1", namespace="shop", name="a"))
        answer = await r.cluster.ChangeSetting(api.ChangeSettingRequest(name="identity-release-grace-s", value="0"))
        status = await r.until(lambda status: status.seq > answer.seq)  # one commit
        assert status.seq == answer.seq + 2, "the last number that was given, and the release"
        entries = [entry async for entry in r.log.ReadLog(api.ReadLogRequest(from_seq=status.seq))]
        assert len(entries) == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await r.cluster.ChangeSetting(api.ChangeSettingRequest(name="colour", value="red"))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_who_is_in_audit_mode(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        await r.register_node("node1", "192.0.2.1")
        await r.register_endpoint("node1", "a", "10.244.0.3", 1)

        async def shown() -> tuple[bool, bool]:
            """(its own option, what is in force)"""
            answer = await r.resources.Get(api.GetRequest(kind="Endpoint", namespace="shop", name="a"))
            found = json.loads(answer.json)
            return found["spec"]["policyAuditMode"], found["status"]["policyAuditMode"]

        async def configure(name: str, audit: bool) -> None:
            request = api.ConfigureEndpointRequest(namespace="shop", name=name, policy_audit_mode=audit, actor="test")
            await r.cluster.ConfigureEndpoint(request)

        assert await shown() == (False, False)
        await configure("a", True)
        assert await shown() == (True, True)
        await configure("a", False)
        request = api.ChangeSettingRequest(name="policy-audit-mode", value="true", node="node1", actor="test")
        await r.cluster.ChangeSetting(request)
        assert await shown() == (False, True)
        status = await r.status()
        assert (status.enable_policy, [node.policy_audit_mode for node in status.nodes]) == ("default", [True])
        listed = await r.resources.List(api.ListRequest(kind="Setting"))
        assert [json.loads(item.json)["spec"] for item in listed.items] == [{"node": "node1", "value": "true"}]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await configure("b", True)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_labels_of_a_prefix_that_no_policy_names_go_in_the_end(
    etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilim.controlplane.decide.membership.AT_ONCE", 2)
    async with replica(etcd.endpoints, cluster, expiry_every_s=0.05) as r:
        await r.register_node("node1", "192.0.2.1")
        for number in range(3, 9):
            await r.register_endpoint("node1", f"p{number}", f"10.244.0.{number}", number)
        follower = Follower(State())

        async def memberships() -> list[tuple[str, ...]]:
            """Labels of prefixes that the identities of endpoints have, as of now."""
            await follower.follow(r, (await r.status()).seq)
            identities = (follower.state.identities[each.identity] for each in follower.state.endpoints.values())
            return [tuple(label for label in each.labels if label.startswith("cidr:")) for each in identities]

        await r.apply(policy("block", "10.244.0.0/24"))
        assert await memberships() == [("cidr:10.244.0.0/24",)] * 6
        ref = api.ResourceRef(kind="NetworkPolicy", namespace="shop", name="block")
        await r.resources.Delete(api.DeleteRequest(refs=[ref], actor="test"))
        assert (await memberships()).count(()) == 2
        await r.cluster.ChangeSetting(api.ChangeSettingRequest(name="identity-release-grace-s", value="0"))
        async with asyncio.timeout(PATIENCE_S):
            while await memberships() != [()] * 6 or len(follower.state.identities) > 1:  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.02)


async def test_health_and_reflection(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        health = health_pb2_grpc.HealthStub(r.channel)
        for service in ("", "kilim.v1.Resources", "kilim.v1.Nodes", "kilim.v1.Cluster"):
            watching = health.Watch(health_pb2.HealthCheckRequest(service=service))
            async with asyncio.timeout(PATIENCE_S):
                while (await watching.read()).status != health_pb2.HealthCheckResponse.SERVING:
                    pass
            watching.cancel()
        reflection = reflection_pb2_grpc.ServerReflectionStub(r.channel)
        asking = reflection.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=PATIENCE_S
        )
        names = {service.name for service in (await asking.read()).list_services_response.service}
        asking.cancel()
        assert {"kilim.v1.Resources", "kilim.v1.Nodes", "kilim.v1.Cluster", "grpc.health.v1.Health"} <= names
