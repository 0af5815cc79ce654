"""How the cluster is, waiting for it, and its settings."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc

from kilim.controlplane.api.condition import Condition
from kilim.controlplane.api.limits import TEXT_LENGTH, check_length, check_names
from kilim.controlplane.api.status import Context, answering
from kilim.controlplane.decide.command import ChangeSetting, ConfigureEndpoint
from kilim.controlplane.decide.refusal import Code, Refusal
from kilim.controlplane.phases import PhasedWriter
from kilim.controlplane.replica import Replica
from kilim.controlplane.reports import Reports
from kilim.controlplane.table_asks import AgentAway, TableAsks
from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import controlplane_pb2_grpc as rpc

WAIT_MAX_MS = 3_600_000
LOOK_AGAIN_S = 0.5


class Cluster(rpc.ClusterServicer):
    def __init__(
        self, replica: Replica, writer: PhasedWriter, reports: Reports, condition: Condition, table_asks: TableAsks
    ) -> None:
        self._table_asks = table_asks
        self._replica = replica
        self._writer = writer
        self._reports = reports
        self._condition = condition

    async def Status(self, request: api.StatusRequest, context: Context) -> api.StatusResponse:
        return await self._condition.status(this_replica_only=request.this_replica_only)

    async def ChangeSetting(self, request: api.ChangeSettingRequest, context: Context) -> api.ChangeSettingResponse:
        async with answering(context):
            check_names((("name", request.name), ("node", request.node)))
            check_length("value", request.value, TEXT_LENGTH)
            check_length("actor", request.actor, TEXT_LENGTH)
            command = ChangeSetting(request.name, request.value, request.node)
            answer = await self._writer.submit(command, request.actor or "unknown")
            return api.ChangeSettingResponse(seq=answer.seq)

    async def ConfigureEndpoint(
        self, request: api.ConfigureEndpointRequest, context: Context
    ) -> api.ConfigureEndpointResponse:
        async with answering(context):
            check_names((("namespace", request.namespace), ("name", request.name)))
            check_length("actor", request.actor, TEXT_LENGTH)
            command = ConfigureEndpoint(request.namespace, request.name, request.policy_audit_mode)
            answer = await self._writer.submit(command, request.actor or "unknown")
            return api.ConfigureEndpointResponse(seq=answer.seq)

    async def Wait(self, request: api.WaitRequest, context: Context) -> api.WaitResponse:
        """Until every node that is up enforces `seq`: nodes may come up, go down and join meanwhile. Not done where
        there are nodes and none is up."""
        try:
            async with asyncio.timeout(min(max(request.timeout_ms, 0), WAIT_MAX_MS) / 1000):
                while self._replica.seq < request.seq:
                    await self._replica.history.wait(request.seq - 1)
                while self._behind(request.seq):
                    with contextlib.suppress(TimeoutError):  # a node may be awaited no longer without any news of it
                        async with asyncio.timeout(LOOK_AGAIN_S):
                            await self._reports.wait()
        except TimeoutError:
            pass
        nodes, behind = sorted(self._replica.state.nodes), self._behind(request.seq)
        down = [node for node in nodes if not self._reports.is_up(node) and not self._reports.is_awaited(node)]
        return api.WaitResponse(
            done=not behind and self._replica.seq >= request.seq and (not nodes or len(down) < len(nodes)),
            behind=[self._condition.node_status(node) for node in behind],
            down=down,
        )

    async def ReadTables(self, request: api.ReadTablesRequest, context: Context) -> AsyncIterator[api.TablesPart]:
        """The rows in a node's kernel, as its agent reads them now."""
        async with answering(context):
            check_names((("node", request.node),))
            if request.node not in self._replica.state.nodes:
                raise Refusal(Code.NOT_FOUND, f'node "{request.node}" not found')
        try:
            async for part in self._table_asks.read(request.node):
                yield part
        except AgentAway as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))

    def _behind(self, seq: int) -> list[str]:
        reports = self._reports
        return [
            node
            for node in sorted(self._replica.state.nodes)
            if reports.is_awaited(node) or (reports.is_up(node) and reports.enforced_seq(node) < seq)
        ]
