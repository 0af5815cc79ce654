"""What agents call: registration, the subscription to the log, and the stream of their reports."""

from collections.abc import AsyncIterator

from kilim.controlplane.api.limits import ERRORS, LABELS, POD_CIDRS, TEXT_LENGTH, check_count, check_length, check_names
from kilim.controlplane.api.patience import patiently
from kilim.controlplane.api.status import Context, answering
from kilim.controlplane.api.subscription import Refused, Subscriptions
from kilim.controlplane.decide.command import (
    EndpointRegistered,
    NodeRegistered,
    RegisterEndpoint,
    RegisterNode,
    RemoveEndpoint,
)
from kilim.controlplane.decide.refusal import invalid
from kilim.controlplane.phases import PhasedWriter
from kilim.controlplane.reports import Reports
from kilim.controlplane.table_asks import TableAsks
from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import controlplane_pb2_grpc as rpc


class Nodes(rpc.NodesServicer):
    def __init__(
        self, writer: PhasedWriter, subscriptions: Subscriptions, reports: Reports, table_asks: TableAsks
    ) -> None:
        self._writer = writer
        self._subscriptions = subscriptions
        self._reports = reports
        self._table_asks = table_asks
        self.ports: frozenset[int] = frozenset()  # that subscribers come in at

    async def RegisterNode(self, request: api.RegisterNodeRequest, context: Context) -> api.RegisterNodeResponse:
        async with answering(context):
            check_names((("name", request.name), ("ip", request.ip), ("ipv6", request.ipv6)))
            check_count("pod_cidrs", len(request.pod_cidrs), POD_CIDRS)
            check_count("labels", len(request.labels), LABELS)
            labels = tuple(sorted(request.labels.items()))
            command = RegisterNode(request.name, request.ip, tuple(request.pod_cidrs), labels, request.ipv6)
            answer = await self._writer.submit(command, f"node:{request.name}")
            assert isinstance(answer.result, NodeRegistered)
            return api.RegisterNodeResponse(seq=answer.seq, pod_cidrs=answer.result.pod_cidrs)

    async def RegisterEndpoint(
        self, request: api.RegisterEndpointRequest, context: Context
    ) -> api.RegisterEndpointResponse:
        async with answering(context):
            check_names((("node", request.node), ("namespace", request.namespace), ("name", request.name)))
            check_names((("container_id", request.container_id), ("service_account", request.service_account)))
            check_names((("ip", request.ip), ("ipv6", request.ipv6)))
            check_count("labels", len(request.labels), LABELS)
            command = RegisterEndpoint(
                node=request.node,
                namespace=request.namespace,
                name=request.name,
                container_id=request.container_id,
                ip=request.ip,
                endpoint_id=request.endpoint_id,
                labels=tuple(sorted(request.labels.items())),
                service_account=request.service_account,
                ipv6=request.ipv6,
                health=request.health,
            )
            answer = await self._writer.submit(command, f"node:{request.node}")
            assert isinstance(answer.result, EndpointRegistered)
            return api.RegisterEndpointResponse(seq=answer.seq, identity=answer.result.identity)

    async def RemoveEndpoint(self, request: api.RemoveEndpointRequest, context: Context) -> api.RemoveEndpointResponse:
        async with answering(context):
            check_names((("node", request.node), ("namespace", request.namespace), ("name", request.name)))
            check_length("container_id", request.container_id)
            check_length("cause", request.cause, TEXT_LENGTH)
            command = RemoveEndpoint(request.node, request.namespace, request.name, request.container_id, request.cause)
            answer = await self._writer.submit(command, f"node:{request.node}")
            return api.RemoveEndpointResponse(seq=answer.seq)

    async def Subscribe(self, request: api.SubscribeRequest, context: Context) -> None:  # type: ignore[override]
        """What it writes is serialised already (see `Server`)."""
        try:
            async with answering(context):
                await self._subscriptions.follow(request, patiently(context, self.ports))
        except Refused as refused:
            await context.abort(refused.code, str(refused))

    async def Report(self, request_iterator: AsyncIterator[api.NodeReport], context: Context) -> api.ReportResponse:
        node = ""
        try:
            async for report in request_iterator:
                async with answering(context):
                    _check_report(report, node)
                if not node:
                    node = report.node
                    self._reports.open(node)
                self._reports.take(report)
        finally:
            if node:
                self._reports.close(node)
        return api.ReportResponse()

    async def ServeTables(
        self, request_iterator: AsyncIterator[api.TablesAnswer], context: Context
    ) -> AsyncIterator[api.TablesQuestion]:
        async for first in request_iterator:
            async with answering(context):
                check_names((("node", first.node),))
                if not first.node:
                    raise invalid("node", "must not be empty")
            async for question in self._table_asks.questions(first.node, request_iterator):
                yield question
            return


def _check_report(report: api.NodeReport, node: str) -> None:
    check_names((("node", report.node), ("agent_version", report.agent_version), ("routing_mode", report.routing_mode)))
    check_count("errors", len(report.errors), ERRORS)
    for error in report.errors:
        check_length("errors", error, TEXT_LENGTH)
    check_count("health.unreachable", len(report.health.unreachable), ERRORS)
    for path in report.health.unreachable:
        check_names((("health.unreachable.node", path.node), ("path", path.path), ("ip", path.ip)))
        check_length("health.unreachable.error", path.error, TEXT_LENGTH)
    if not report.node:
        raise invalid("node", "must not be empty")
    if node and report.node != node:
        raise invalid("node", f"was {node!r} before on this stream")
