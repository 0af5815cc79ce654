"""How the etcd cluster is and what keeps it so: status of each member, compaction, defragmentation, alarms.

Easy to get wrong: a quota alarm stays after space was made, and so do failing writes, until it is disarmed. Defragment
one member at a time, the leader last: it takes no writes meanwhile (2.3 s at 700 MB). Of an etcd with passwords only
root may, everything else here takes no more than our own keys.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import grpc

from kilim.etcd import rpc_pb2
from kilim.kvstore.calls import ATTEMPT_S, Calls, Metadata, Repeat, describe_error
from kilim.kvstore.endpoints import Endpoint
from kilim.kvstore.errors import Rejected, Unavailable
from kilim.kvstore.refusals import Verdict, judge_error, refusal

_PHYSICAL_COMPACTION_S = 60.0
_DEFRAGMENT_S = 120.0
_FOLLOWERS_S = 20.0
_POLL_S = 0.1
_PAGES_BYTES = 1 << 20  # that members with the same keys may differ in what is in use

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """Where `error` is not empty the endpoint did not answer and the rest is zero."""

    endpoint: str
    error: str = ""
    version: str = ""
    member_id: int = 0
    leader_id: int = 0
    revision: int = 0
    raft_term: int = 0
    db_bytes: int = 0
    db_in_use_bytes: int = 0
    alarms: tuple[str, ...] = ()

    @property
    def is_leader(self) -> bool:
        return self.member_id != 0 and self.member_id == self.leader_id


@dataclass(frozen=True, slots=True)
class Member:
    member_id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool


class Maintenance:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def status(self) -> list[EndpointStatus]:
        return list(await asyncio.gather(*(self._status_of(endpoint) for endpoint in self._calls.endpoints.all)))

    async def _status_of(self, endpoint: Endpoint) -> EndpointStatus:
        async def ask(metadata: Metadata) -> rpc_pb2.StatusResponse:
            return await endpoint.maintenance.Status(rpc_pb2.StatusRequest(), timeout=ATTEMPT_S, metadata=metadata)

        try:
            answer = await self._ask_member(endpoint, ask)
        except grpc.aio.AioRpcError as error:
            return EndpointStatus(endpoint.name, error=describe_error(error))
        return EndpointStatus(
            endpoint=endpoint.name,
            version=answer.version,
            member_id=answer.header.member_id,
            leader_id=answer.leader,
            revision=answer.header.revision,
            raft_term=answer.raftTerm,
            db_bytes=answer.dbSize,
            db_in_use_bytes=answer.dbSizeInUse,
            alarms=tuple(answer.errors),
        )

    async def compact(self, revision: int, *, physical: bool = False) -> None:
        """Forgets what was before `revision`. Already compacted further is success."""
        request = rpc_pb2.CompactionRequest(revision=revision, physical=physical)

        async def attempt(endpoint: Endpoint, attempt_s: float, metadata: Metadata) -> bool:
            patience_s = _PHYSICAL_COMPACTION_S if physical else attempt_s
            try:
                await endpoint.kv.Compact(request, timeout=patience_s, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                if "has been compacted" not in (error.details() or ""):
                    raise
            return True

        await self._calls.call(attempt, Repeat.HARMLESS)

    async def wait_compacted(self, patience_s: float = _FOLLOWERS_S) -> None:
        """Until what a physical compaction lets go is free on every member that answers: `compact` waits for one alone,
        and one that is behind would be defragmented for nothing. Gives up quietly after `patience_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while True:
                    if not _uneven([one.db_in_use_bytes for one in await self.status() if not one.error]):
                        return
                    await asyncio.sleep(_POLL_S)

    async def defragment(self, endpoint_name: str) -> None:
        """Blocks that member. Raises Unavailable when it does not finish in two minutes, Denied where we may not."""
        endpoint = self._endpoint(endpoint_name)
        request = rpc_pb2.DefragmentRequest()

        async def ask(metadata: Metadata) -> rpc_pb2.DefragmentResponse:
            return await endpoint.maintenance.Defragment(request, timeout=_DEFRAGMENT_S, metadata=metadata)

        try:
            await self._ask_member(endpoint, ask)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise Unavailable(describe_error(error)) from error
            raise refusal(error.code(), error.details() or "") from error

    async def _ask_member(self, endpoint: Endpoint, ask: Callable[[Metadata], Awaitable[T]]) -> T:
        """That one and no other; with a new token where it does not know ours, as after its restart."""
        token = self._calls.current_token()
        try:
            return await ask(await self._calls.metadata(endpoint))
        except grpc.aio.AioRpcError as error:
            verdict = judge_error(error.code(), error.details() or "")
            if verdict is not Verdict.TOKEN or not self._calls.has_credentials():
                raise
        await self._calls.renew_token(endpoint, token)
        return await ask(await self._calls.metadata(endpoint))

    def _endpoint(self, name: str) -> Endpoint:
        for endpoint in self._calls.endpoints.all:
            if endpoint.name == name:
                return endpoint
        raise Rejected(f"no such etcd endpoint: {name}")

    async def alarms(self) -> Sequence[tuple[int, str]]:
        """(member id, `NOSPACE` or `CORRUPT`) of every raised alarm."""
        request = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET)
        answer = await self._alarm(request)
        return [(one.memberID, rpc_pb2.AlarmType.Name(one.alarm)) for one in answer.alarms]

    async def disarm_nospace(self) -> None:
        """On all members; after space was made by compaction and defragmentation."""
        action = rpc_pb2.AlarmRequest.DEACTIVATE
        for member_id, alarm in await self.alarms():
            if alarm == "NOSPACE":
                await self._alarm(rpc_pb2.AlarmRequest(action=action, memberID=member_id, alarm=rpc_pb2.NOSPACE))

    async def _alarm(self, request: rpc_pb2.AlarmRequest) -> rpc_pb2.AlarmResponse:
        async def attempt(endpoint: Endpoint, attempt_s: float, metadata: Metadata) -> rpc_pb2.AlarmResponse:
            return await endpoint.maintenance.Alarm(request, timeout=attempt_s, metadata=metadata)

        return (await self._calls.call(attempt, Repeat.HARMLESS)).value

    async def members(self) -> list[Member]:
        async def attempt(endpoint: Endpoint, attempt_s: float, metadata: Metadata) -> rpc_pb2.MemberListResponse:
            request = rpc_pb2.MemberListRequest()
            return await endpoint.cluster.MemberList(request, timeout=attempt_s, metadata=metadata)

        answer = (await self._calls.call(attempt, Repeat.READ)).value
        return [
            Member(one.ID, one.name, tuple(one.peerURLs), tuple(one.clientURLs), one.isLearner)
            for one in answer.members
        ]


def _uneven(in_use_bytes: Sequence[int]) -> bool:
    """Whether a member holds more than its keys take on another."""
    return bool(in_use_bytes) and max(in_use_bytes) > 1.25 * min(in_use_bytes) + _PAGES_BYTES
