"""Calls to whichever replica answers. All are idempotent, so one whose outcome is unknown is just tried elsewhere."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
import grpc.aio

from kilim.agent.servers import ELSEWHERE, ControlPlaneAway, Refused, Renewed, Server, Servers, renewable
from kilim.v1 import controlplane_pb2 as pb

T = TypeVar("T")


class Calls:
    """Raises ControlPlaneAway after `deadline_s` in all, Refused at once. One server gets `attempt_s`."""

    def __init__(self, servers: Servers, deadline_s: float = 2.5, attempt_s: float = 1.0) -> None:
        self._servers = servers
        self._deadline_s = deadline_s
        self._attempt_s = attempt_s

    async def register_node(self, request: pb.RegisterNodeRequest) -> pb.RegisterNodeResponse:
        return await self._anywhere(lambda s, t: s.nodes.RegisterNode(request, timeout=t))

    async def register_endpoint(self, request: pb.RegisterEndpointRequest) -> pb.RegisterEndpointResponse:
        return await self._anywhere(lambda s, t: s.nodes.RegisterEndpoint(request, timeout=t))

    async def remove_endpoint(self, request: pb.RemoveEndpointRequest) -> pb.RemoveEndpointResponse:
        return await self._anywhere(lambda s, t: s.nodes.RemoveEndpoint(request, timeout=t))

    async def _anywhere(self, attempt: Callable[[Server, float], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._deadline_s
        reasons: list[str] = []
        for server in self._servers.in_order():
            left_s = deadline - loop.time()
            if left_s <= 0:
                break
            try:
                with renewable():
                    return await attempt(server, min(self._attempt_s, left_s))
            except Renewed as error:
                reasons.append(f"{server.address}: {error}")
            except grpc.aio.AioRpcError as error:
                if error.code() not in ELSEWHERE:
                    raise Refused(error.code(), error.details() or "") from None
                reasons.append(f"{server.address}: {error.code().name} {error.details()}")
        raise ControlPlaneAway("no control plane replica took the call; " + "; ".join(reasons))
