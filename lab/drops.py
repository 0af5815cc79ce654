"""Which packets the nodes dropped, and why: asked of every agent of a lab while probes run."""

import asyncio
from collections.abc import Iterable
from types import TracebackType

import grpc
import grpc.aio

from kilim.v1 import agent_pb2, agent_pb2_grpc

# (source ip, source port, destination ip, destination port, protocol); ports 0 where the protocol has none
Flow = tuple[str, int, str, int, int]
_PORTLESS = (1, 58)


class DropWatch:
    """Remembers every drop since `since_ns` (CLOCK_MONOTONIC). An agent that does not answer has nothing to say."""

    def __init__(self, sockets: Iterable[str], since_ns: int) -> None:
        self._channels = [grpc.aio.insecure_channel(f"unix:{path}") for path in sockets]
        self._since_ns = since_ns
        self._reasons: dict[Flow, str] = {}

    async def __aenter__(self) -> "DropWatch":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def refresh(self) -> None:
        for drops in await asyncio.gather(*(self._read(channel) for channel in self._channels)):
            for drop in drops:
                self._reasons.setdefault(_flow_of(drop), drop.reason)

    def reason(self, flow: Flow) -> str | None:
        """Of a packet of the flow or of an answer to it."""
        source_ip, source_port, ip, port, protocol = flow
        if protocol in _PORTLESS:
            source_port = port = 0
        forward = (source_ip, source_port, ip, port, protocol)
        return self._reasons.get(forward) or self._reasons.get((ip, port, source_ip, source_port, protocol))

    async def _read(self, channel: grpc.aio.Channel) -> list[agent_pb2.Drop]:
        try:
            stub = agent_pb2_grpc.AgentStub(channel)
            answer = await stub.ListDrops(agent_pb2.ListDropsRequest(since_ns=self._since_ns), timeout=2.0)
            return list(answer.drops)
        except grpc.aio.AioRpcError:
            return []


def _flow_of(drop: agent_pb2.Drop) -> Flow:
    if drop.protocol in _PORTLESS:
        return drop.source_ip, 0, drop.destination_ip, 0, drop.protocol
    return drop.source_ip, drop.source_port, drop.destination_ip, drop.destination_port, drop.protocol
