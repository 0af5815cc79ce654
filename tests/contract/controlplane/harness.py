"""Replicas as a test runs them: real gRPC over loopback, real etcd, in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from kilim.controlplane.runtime import Settings, serve
from kilim.kvstore.commit import CHAIN_START, Commit, decode_commit, verify_commit
from kilim.model.fold import fold_record
from kilim.model.state import State, key_from_bytes
from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import controlplane_pb2_grpc as rpc
from kilim.v1 import events_pb2

PATIENCE_S = 20.0


@dataclass(slots=True)
class Running:
    """One replica and a client of it."""

    name: str
    address: str
    channel: grpc.aio.Channel
    resources: Any
    nodes: Any
    cluster: Any
    log: Any
    stop: asyncio.Event

    async def status(self) -> api.StatusResponse:
        status: api.StatusResponse = await self.cluster.Status(api.StatusRequest(), timeout=5)
        return status

    async def until(self, holds: Callable[[api.StatusResponse], bool]) -> api.StatusResponse:
        """The first status for which it holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds(status := await self.status()):  # noqa: ASYNC110  # a status can only be asked for
                await asyncio.sleep(0.02)
        return status

    async def apply(self, *objects: dict[str, Any], dry_run: bool = False) -> api.ApplyResponse:
        manifests = [
            api.Manifest(json=json.dumps(each), source=f"t.yaml: document {n + 1}") for n, each in enumerate(objects)
        ]
        request = api.ApplyRequest(manifests=manifests, actor="test", dry_run=dry_run)
        answer: api.ApplyResponse = await self.resources.Apply(request, timeout=PATIENCE_S)
        return answer

    async def register_node(self, name: str, ip: str, *cidrs: str, ipv6: str = "") -> api.RegisterNodeResponse:
        request = api.RegisterNodeRequest(name=name, ip=ip, ipv6=ipv6, pod_cidrs=cidrs)
        answer: api.RegisterNodeResponse = await self.nodes.RegisterNode(request, timeout=PATIENCE_S)
        return answer

    async def register_endpoint(
        self, node: str, name: str, ip: str, number: int, **labels: str
    ) -> api.RegisterEndpointResponse:
        request = api.RegisterEndpointRequest(
            node=node, namespace="shop", name=name, container_id=f"c-{name}", ip=ip, endpoint_id=number, labels=labels
        )
        answer: api.RegisterEndpointResponse = await self.nodes.RegisterEndpoint(request, timeout=PATIENCE_S)
        return answer

    async def fill(self, count: int, prefix: str = "ns") -> int:
        """Some namespaces, one event each; returns the head."""
        answers = await asyncio.gather(*(self.apply(namespace(f"{prefix}{n}")) for n in range(count)))
        return max(answer.seq for answer in answers)


@contextlib.asynccontextmanager
async def replica(
    endpoints: list[str], cluster: str, name: str = "r1", loaded: bool = True, **more: Any
) -> AsyncIterator[Running]:
    """Serving, and caught up with the log unless etcd is away."""
    stop = asyncio.Event()
    started: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
    more = {"listen": ("127.0.0.1:0",), **more}
    settings = Settings(name=name, etcd_endpoints=tuple(endpoints), cluster=cluster, **more)
    serving = asyncio.create_task(serve(settings, stop, started.set_result), name=f"replica {name}")
    address = (await asyncio.wait_for(started, PATIENCE_S))[0]
    channel = grpc.aio.insecure_channel(
        address, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 16 << 20)]
    )
    try:
        running = Running(
            name,
            address,
            channel,
            rpc.ResourcesStub(channel),
            rpc.NodesStub(channel),
            rpc.ClusterStub(channel),
            rpc.LogStub(channel),
            stop,
        )
        if loaded:
            await running.until(lambda status: not any("has not read" in problem for problem in status.problems))
        yield running
    finally:
        await channel.close()
        stop.set()
        assert await asyncio.wait_for(serving, PATIENCE_S) == 0


@dataclass(slots=True)
class Follower:
    """What an agent does with a subscription: verify, fold, compare."""

    state: State
    seq: int = 0
    chain: bytes = CHAIN_START
    caught_up: int = 0
    snapshots: int = 0

    async def follow(self, running: Running, until_seq: int, from_seq: int | None = None) -> None:
        """Subscribe and fold until `until_seq` is there and a head has come."""
        request = api.SubscribeRequest(
            node="t", from_seq=self.seq + 1 if from_seq is None else from_seq, chain_before=self.chain
        )
        call = running.nodes.Subscribe(request)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while self.seq < until_seq or self.caught_up < until_seq:
                    message = await call.read()
                    assert message is not grpc.aio.EOF
                    self.take(message)
        finally:
            call.cancel()

    def take(self, message: api.SubscribeResponse) -> None:
        match message.WhichOneof("what"):
            case "snapshot":
                self._take_snapshot(message.snapshot)
            case "commit":
                self._fold(decode_commit(message.commit))
            case "commits":
                for encoded in message.commits.commits:
                    self._fold(decode_commit(encoded))
            case "head":
                assert (message.head.seq, message.head.chain) == (self.seq, self.chain)
                self.caught_up = message.head.seq

    def _take_snapshot(self, part: api.SnapshotPart) -> None:
        for record in map(api_record, part.records):
            self.state.put(record.table, key_from_bytes(record.table, record.key), record.value)
        if part.last:
            assert self.state.digest == part.state_digest
            self.seq, self.chain = part.seq, part.chain
            self.snapshots += 1

    def _fold(self, commit: Commit) -> None:
        verify_commit(commit, self.seq + 1, self.chain)
        for number, record in enumerate(commit.records):
            fold_record(self.state, commit.first_seq + number, record)
        self.seq, self.chain = commit.last_seq, commit.chain_after


def api_record(data: bytes) -> Any:
    return events_pb2.StateRecord.FromString(data)


def namespace(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pod(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": labels}}


def policy(name: str, *cidrs: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"podSelector": {}, "policyTypes": ["Ingress"]}
    if cidrs:
        spec["ingress"] = [{"from": [{"ipBlock": {"cidr": cidr}} for cidr in cidrs]}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": spec,
    }
