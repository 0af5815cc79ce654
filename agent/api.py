"""What the agent tells people and tools on its node: kilim.v1.Agent on a Unix socket, with health and reflection."""

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio
from grpc_health.v1 import _async as aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from kilim.agent.connections import Connections
from kilim.agent.core.dump import DESIRED, dump_desired
from kilim.agent.drop_messages import drop_message, named_messages
from kilim.agent.enforcement import Enforcement
from kilim.agent.flows import Counted, Flows, lost_records, named_counts
from kilim.agent.health.health import Health
from kilim.agent.threads import in_thread
from kilim.agent.uplink import Subscription
from kilim.model.address import parse_ip
from kilim.v1 import agent_pb2 as pb
from kilim.v1 import agent_pb2_grpc

_DROPS_MAX = 30_000  # of one answer, so that it fits into a client's default limit of 4 MiB
_NAMED_MAX = 2_000  # policy is asked for each
_OF_TRAFFIC = ("ct", "nat", "frag")  # as long as packets make them, and read without anything of the loop's
_KERNEL = (*DESIRED, *_OF_TRAFFIC)
_SERVICE = pb.DESCRIPTOR.services_by_name["Agent"].full_name


class KernelDump(Protocol):
    def dump(self, table: str, raw: bool = False) -> tuple[list[str], list[list[str]]]: ...


class AgentApi(agent_pb2_grpc.AgentServicer):
    def __init__(
        self,
        enforcement: Enforcement,
        subscription: Subscription,
        flows: Flows,
        kernel: KernelDump,
        counters: Callable[[], Iterable[Counted]],
        health: Health | None,
        connections: Connections | None,
    ) -> None:
        self._enforcement = enforcement
        self._subscription = subscription
        self._flows = flows
        self._kernel = kernel
        self._counters = counters
        self._health = health
        self._connections = connections
        self._alone = asyncio.Lock()

    async def end(self) -> None:
        """The kernel's tables may be closed then: nothing is under way in them any more, and nothing begins."""
        await self._alone.acquire()

    async def Status(self, request: pb.AgentStatusRequest, context: Any) -> pb.AgentStatusResponse:
        enforcement, counted = self._enforcement, list(self._counters())
        report = enforcement.report()
        return pb.AgentStatusResponse(
            node=enforcement.replica.node,
            seq=report.seq,
            state_digest=report.state_digest,
            table_digest=report.table_digest,
            in_sync=enforcement.in_sync,
            connected=self._subscription.connected,
            server=self._subscription.server,
            counts=[
                pb.Count(reason=reason, direction=direction, packets=packets, bytes=octets)
                for reason, direction, packets, octets in named_counts(counted)
            ],
            rebuilt_at_ns=enforcement.rebuilt_at_ns,
            lost_records=lost_records(counted),
            errors=report.errors,
            drift_repairs=report.drift_repairs,
        )

    async def DumpTable(self, request: pb.DumpTableRequest, context: Any) -> pb.DumpTableResponse:
        known = _KERNEL if request.kernel else DESIRED
        if request.table not in known:
            rule = f"table: must be one of {', '.join(known)}, not {request.table!r}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, rule)
        if not request.kernel:
            return _dump_response(*dump_desired(self._enforcement.replica.tables, request.table))
        if request.table not in _OF_TRAFFIC:
            return _dump_response(*self._kernel.dump(request.table, request.raw))
        async with self._alone:
            return await in_thread(lambda: _dump_response(*self._kernel.dump(request.table, request.raw)))

    async def ListDrops(self, request: pb.ListDropsRequest, context: Any) -> pb.ListDropsResponse:
        since = self._flows.audits_since if request.audits else self._flows.drops_since
        most = _NAMED_MAX if request.names else _DROPS_MAX
        kept = since(request.since_ns)
        drops = kept[-min(request.last or most, most) :]
        replica = self._enforcement.replica
        messages = named_messages(drops, replica) if request.names else [drop_message(each) for each in drops]
        return pb.ListDropsResponse(drops=messages, left_out=len(kept) - len(drops))

    async def FlushConnections(self, request: pb.FlushConnectionsRequest, context: Any) -> pb.FlushConnectionsResponse:
        if self._connections is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this node has no connection table")
            raise AssertionError  # abort raises
        try:
            ips = [parse_ip(text) for text in request.ips]
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"ips: {error}")
            raise AssertionError from None
        return pb.FlushConnectionsResponse(removed=await self._connections.flush(ips or None))

    async def Health(self, request: pb.HealthRequest, context: Any) -> pb.HealthResponse:
        if self._health is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "health checking is off on this node")
            raise AssertionError  # abort raises
        return await self._health.answer(request)


def _dump_response(columns: list[str], rows: list[list[str]]) -> pb.DumpTableResponse:
    return pb.DumpTableResponse(columns=columns, rows=[pb.DumpTableResponse.Row(cells=row) for row in rows])


async def serve_api(path: Path, api: AgentApi) -> None:
    """Until cancelled. The socket is for root only."""
    await asyncio.to_thread(_make_way, path)
    server = grpc.aio.server()
    agent_pb2_grpc.add_AgentServicer_to_server(api, server)
    checks = aio.HealthServicer()
    for service in ("", _SERVICE):
        await checks.set(service, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)  # type: ignore[no-untyped-call]
    services = (_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(services, server)  # type: ignore[no-untyped-call]
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")  # binds; nothing else of this process may run in between
    finally:
        os.umask(before)
    await server.start()
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await server.stop(0.2)
        await api.end()


def _make_way(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    path.unlink(missing_ok=True)
