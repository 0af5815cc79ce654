"""The control plane replicas as this node sees them: one channel each, renewed when a replica stops answering.

Easy to get wrong: a TCP connection into a partition looks healthy for minutes and, once healed, sleeps until its next
retransmission. So a server that was silent gets a new channel with a connection of its own (no shared subchannels).
Closing the old channel cancels the calls of everybody on it, and grpc says so by CancelledError: see `renewable`.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kilim.v1 import controlplane_pb2_grpc

_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),  # replicas are reached directly, whatever the environment says of proxies
]


class ControlPlaneAway(Exception):
    """No replica could take the call in time. Nothing was refused: try again later."""


class Renewed(Exception):
    """The channel was given up while a call was on it; what became of the call is unknown."""


@contextlib.contextmanager
def renewable() -> Iterator[None]:
    """Around calls on a shared channel: Renewed where that was given up, lest a task end as if it were cancelled."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Renewed("the connection was given up") from None


class Refused(Exception):
    """A replica understood the call and said no; another one would say the same."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details or code.name)
        self.code = code


# Anything else is an answer.
ELSEWHERE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.ABORTED,
    }
)


class Server:
    """One replica."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self.nodes = controlplane_pb2_grpc.NodesStub(self._channel)

    async def ask(self) -> None:
        """Whether anybody is there: returns at any answer, a refusal included; waits for ever otherwise."""
        stub = health_pb2_grpc.HealthStub(self._channel)  # type: ignore[no-untyped-call]
        with contextlib.suppress(grpc.aio.AioRpcError):
            await stub.Check(health_pb2.HealthCheckRequest())

    async def renew(self) -> None:
        """Give up the connection with everything on it."""
        old = self._channel
        self._channel = grpc.aio.insecure_channel(self.address, options=_OPTIONS)
        self.nodes = controlplane_pb2_grpc.NodesStub(self._channel)
        await old.close()

    async def close(self) -> None:
        await self._channel.close()


class Servers:
    """All replicas, and which one is used for what can go to any."""

    def __init__(self, addresses: Sequence[str]) -> None:
        if not addresses:
            raise ValueError("at least one control plane server is needed")
        self.all = tuple(Server(address) for address in addresses)
        self._preferred = 0

    @property
    def preferred(self) -> Server:
        return self.all[self._preferred]

    def prefer_next(self) -> None:
        self._preferred = (self._preferred + 1) % len(self.all)

    def in_order(self) -> list[Server]:
        """The preferred one first."""
        return [*self.all[self._preferred :], *self.all[: self._preferred]]

    async def close(self) -> None:
        await asyncio.gather(*(server.close() for server in self.all))
