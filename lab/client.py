"""The gRPC API as the lab uses it: several replicas behind one object, an agent by its Unix socket.

A refusal (INVALID_ARGUMENT and the like) is an answer, so it is raised as `Refused` and never tried elsewhere.
A write that was perhaps done is repeated, which is harmless; a delete that then finds nothing has deleted.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from kilim.lab.errors import LabError
from kilim.lab.outcome import Outcome, outcome_of, reason, unknown
from kilim.v1 import agent_pb2, agent_pb2_grpc, controlplane_pb2, controlplane_pb2_grpc

_WRITES = {"Apply", "Delete", "ChangeSetting", "ConfigureEndpoint"}
_ATTEMPT_S = 5.0
_PAUSE_S = 0.1
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.enable_http_proxy", 0),
]


class Refused(LabError):
    """The control plane understood and said no."""


class NotFound(Refused):
    pass


class GoneBefore(NotFound):
    """Not found after an attempt that perhaps deleted it."""


class ControlPlane:
    """Calls go to the replica that answered last; where one fails the next is asked, until `patience_s` is over."""

    def __init__(self, targets: Sequence[str], patience_s: float = 20.0) -> None:
        self._channels = [grpc.aio.insecure_channel(target, options=_OPTIONS) for target in targets]
        self._patience_s = patience_s
        self._current = 0

    async def __aenter__(self) -> "ControlPlane":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def apply(self, manifests: Sequence[tuple[str, dict[str, Any]]]) -> int:
        """(source, object) each; all or none. Answers the sequence number after the change."""
        request = controlplane_pb2.ApplyRequest(
            manifests=[
                controlplane_pb2.Manifest(json=json.dumps(body, default=str), source=source)
                for source, body in manifests
            ],
            actor="kilim lab",
        )
        return int((await self._call(controlplane_pb2_grpc.ResourcesStub, "Apply", request)).seq)

    async def delete(self, kind: str, namespace: str, name: str, source: str) -> int:
        ref = controlplane_pb2.ResourceRef(kind=kind, namespace=namespace, name=name, source=source)
        request = controlplane_pb2.DeleteRequest(refs=[ref], actor="kilim lab")
        try:
            return int((await self._call(controlplane_pb2_grpc.ResourcesStub, "Delete", request)).seq)
        except GoneBefore:
            return (await self.status()).seq

    async def set(self, name: str, value: str, node: str = "") -> int:
        request = controlplane_pb2.ChangeSettingRequest(name=name, value=value, node=node, actor="kilim lab")
        return int((await self._call(controlplane_pb2_grpc.ClusterStub, "ChangeSetting", request)).seq)

    async def configure_endpoint(self, key: str, audit: bool) -> int:
        namespace, _, name = key.rpartition("/")
        request = controlplane_pb2.ConfigureEndpointRequest(
            namespace=namespace, name=name, policy_audit_mode=audit, actor="kilim lab"
        )
        return int((await self._call(controlplane_pb2_grpc.ClusterStub, "ConfigureEndpoint", request)).seq)

    async def exists(self, kind: str, namespace: str, name: str) -> bool:
        request = controlplane_pb2.GetRequest(kind=kind, namespace=namespace, name=name)
        try:
            await self._call(controlplane_pb2_grpc.ResourcesStub, "Get", request)
        except NotFound:
            return False
        return True

    async def status(self, attempt_s: float = _ATTEMPT_S) -> controlplane_pb2.StatusResponse:
        request = controlplane_pb2.StatusRequest()
        answer: controlplane_pb2.StatusResponse = await self._call(
            controlplane_pb2_grpc.ClusterStub, "Status", request, attempt_s
        )
        return answer

    async def wait(self, seq: int, timeout_s: float = 15.0) -> controlplane_pb2.WaitResponse:
        """Until every node that is up enforces `seq`; raises where one does not in time."""
        request = controlplane_pb2.WaitRequest(seq=seq, timeout_ms=int(timeout_s * 1000))
        answer: controlplane_pb2.WaitResponse = await self._call(
            controlplane_pb2_grpc.ClusterStub, "Wait", request, timeout_s + _ATTEMPT_S
        )
        if not answer.done:
            behind = ", ".join(f"{node.name} at {node.seq}" for node in answer.behind)
            raise LabError(f"not every node enforces seq {seq} after {timeout_s:g} s: {behind}")
        return answer

    async def _call(self, stub: Any, method: str, request: Any, attempt_s: float = _ATTEMPT_S) -> Any:
        deadline = time.monotonic() + self._patience_s
        perhaps = False
        while True:
            for _ in self._channels:
                try:
                    call = getattr(stub(self._channels[self._current]), method)
                    return await call(request, timeout=attempt_s)
                except grpc.aio.AioRpcError as error:
                    outcome = outcome_of(error, perhaps)
                    read_failed = error.code() is grpc.StatusCode.UNKNOWN and method not in _WRITES
                    if outcome is Outcome.ANSWER or read_failed:
                        raise _refused(error, perhaps) from None
                    perhaps = perhaps or outcome is Outcome.PERHAPS
                    self._current = (self._current + 1) % len(self._channels)
                    last = f"{error.code().name} {reason(error.details() or '')}".rstrip()
            if time.monotonic() > deadline:
                if perhaps and method in _WRITES:
                    raise LabError(f"{method}: {unknown([last])}")
                raise LabError(f"no replica answers {method}: {last}")
            await asyncio.sleep(_PAUSE_S)


def _refused(error: grpc.aio.AioRpcError, perhaps: bool) -> Refused:
    kind = Refused
    if error.code() is grpc.StatusCode.NOT_FOUND:
        kind = GoneBefore if perhaps else NotFound
    return kind(error.details() or error.code().name)


async def agent_status(socket_path: str, timeout_s: float = 2.0) -> agent_pb2.AgentStatusResponse | None:
    """None where no agent answers."""
    async with grpc.aio.insecure_channel(f"unix:{socket_path}", options=_OPTIONS) as channel:
        try:
            stub = agent_pb2_grpc.AgentStub(channel)
            answer: agent_pb2.AgentStatusResponse = await stub.Status(agent_pb2.AgentStatusRequest(), timeout=timeout_s)
            return answer
        except grpc.aio.AioRpcError:
            return None
