"""Writes whose outcome is in doubt, against real gRPC servers that refuse as the control plane does."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from kilim.controlplane.api.status import abort
from kilim.kvstore.errors import OutcomeUnknown, Unavailable
from kilim.lab.client import ControlPlane, NotFound
from kilim.lab.errors import LabError
from kilim.lab.outcome import Outcome, outcome_of
from kilim.v1 import controlplane_pb2 as pb
from kilim.v1 import controlplane_pb2_grpc

Handler = Callable[[Any], Awaitable[None]]
BROKEN = (grpc.StatusCode.UNAVAILABLE, "Socket closed")
GONE = (grpc.StatusCode.NOT_FOUND, "Pod x/a: not found")


class Replica(controlplane_pb2_grpc.ResourcesServicer, controlplane_pb2_grpc.ClusterServicer):
    """Deletes by the script, one failure after the other, the last for ever."""

    def __init__(self, *script: Exception | tuple[grpc.StatusCode, str]) -> None:
        self.script = list(script)

    async def Delete(self, request: Any, context: Any) -> None:
        failure = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(failure, Exception):
            await abort(context, failure)
        await context.abort(*failure)

    async def Status(self, request: Any, context: Any) -> pb.StatusResponse:
        return pb.StatusResponse(seq=5)


@asynccontextmanager
async def serving(replica: Replica) -> AsyncIterator[str]:
    server = grpc.aio.server()
    controlplane_pb2_grpc.add_ResourcesServicer_to_server(replica, server)
    controlplane_pb2_grpc.add_ClusterServicer_to_server(replica, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def delete(*script: Exception | tuple[grpc.StatusCode, str]) -> int:
    async with serving(Replica(*script)) as target, ControlPlane([target], patience_s=0.3) as plane:
        return await plane.delete("Pod", "x", "a", "test")


async def test_not_found_is_deleted_only_after_a_doubt() -> None:
    assert await delete(BROKEN, GONE) == 5
    assert await delete(OutcomeUnknown("etcd is mute"), GONE) == 5
    with pytest.raises(NotFound):
        await delete(Unavailable("etcd is away"), GONE)


async def test_a_doubt_that_nobody_ends_is_said() -> None:
    with pytest.raises(LabError, match="^Delete: outcome unknown: UNAVAILABLE .*; repeating it is harmless"):
        await delete(BROKEN, Unavailable("etcd is away"))
    with pytest.raises(LabError, match="^no replica answers Delete: UNAVAILABLE etcd is away"):
        await delete(Unavailable("etcd is away"))


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (Unavailable("etcd is away"), Outcome.NOT_DONE),
        (OutcomeUnknown("etcd is mute"), Outcome.PERHAPS),
        (BROKEN, Outcome.PERHAPS),
        (GONE, Outcome.ANSWER),
    ],
)
async def test_the_mark_of_the_control_plane_is_understood(failure: Any, outcome: Outcome) -> None:
    async with serving(Replica(failure)) as target, grpc.aio.insecure_channel(target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await controlplane_pb2_grpc.ResourcesStub(channel).Delete(pb.DeleteRequest())
    assert outcome_of(raised.value) is outcome
