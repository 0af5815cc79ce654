"""Replicas of the control plane as far as an agent sees them: a real gRPC server that follows a script."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from kilim.kvstore.commit import Commit
from kilim.model.fold import fold_record
from kilim.model.snapshot import encode_parts, freeze
from kilim.model.state import State
from kilim.v1 import controlplane_pb2 as pb
from kilim.v1 import controlplane_pb2_grpc

Follow = Callable[["FakeReplica", pb.SubscribeRequest, Any], AsyncIterator[pb.SubscribeResponse]]


class FakeReplica(controlplane_pb2_grpc.NodesServicer):
    """`follow` is what a subscription does; everything asked for is kept."""

    def __init__(self, commits: list[Commit], follow: Follow | None = None) -> None:
        self.commits = commits
        self.follow = follow or serve_log
        self.subscriptions: list[pb.SubscribeRequest] = []
        self.reports: list[pb.NodeReport] = []
        self.changed = asyncio.Condition()
        self.refuse: grpc.StatusCode | None = None
        self.registered = 0
        self.removing = 0
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self) -> str:
        self._server = grpc.aio.server()
        controlplane_pb2_grpc.add_NodesServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()
        return f"127.0.0.1:{self.port}"

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def append(self, commit: Commit) -> None:
        async with self.changed:
            self.commits.append(commit)
            self.changed.notify_all()

    async def wait_longer(self, length: int) -> None:
        """Until the log is longer, or for a heartbeat."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1), self.changed:
                await self.changed.wait_for(lambda: len(self.commits) > length)

    async def RegisterNode(self, request: pb.RegisterNodeRequest, context: Any) -> pb.RegisterNodeResponse:
        return pb.RegisterNodeResponse(seq=1)

    async def RegisterEndpoint(self, request: pb.RegisterEndpointRequest, context: Any) -> pb.RegisterEndpointResponse:
        if self.refuse is not None:
            await context.abort(self.refuse, "so it is")
        self.registered += 1
        return pb.RegisterEndpointResponse(seq=self.registered, identity=300)

    async def RemoveEndpoint(self, request: pb.RemoveEndpointRequest, context: Any) -> pb.RemoveEndpointResponse:
        self.removing += 1
        await asyncio.sleep(30)
        return pb.RemoveEndpointResponse()

    async def Subscribe(self, request: pb.SubscribeRequest, context: Any) -> AsyncIterator[pb.SubscribeResponse]:
        self.subscriptions.append(request)
        async for response in self.follow(self, request, context):
            yield response

    async def Report(self, request_iterator: AsyncIterator[pb.NodeReport], context: Any) -> pb.ReportResponse:
        async for report in request_iterator:
            self.reports.append(report)
        return pb.ReportResponse()


def head_of(commits: list[Commit]) -> pb.SubscribeResponse:
    last = commits[-1]
    return pb.SubscribeResponse(head=pb.SubscribeResponse.Head(seq=last.last_seq, chain=last.chain_after))


async def serve_log(
    replica: FakeReplica, request: pb.SubscribeRequest, context: Any
) -> AsyncIterator[pb.SubscribeResponse]:
    """As a good replica does."""
    wanted = max(request.from_seq, 1)
    following = [commit for commit in replica.commits if commit.first_seq >= wanted]
    before = replica.commits[-1].chain_after if not following else following[0].chain_before
    if wanted > 1 and request.chain_before != before:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "chain_before: another history")
    sent = len(replica.commits) - len(following)
    while True:
        for commit in replica.commits[sent:]:
            yield pb.SubscribeResponse(commit=commit.encoded)
        sent = len(replica.commits)
        yield head_of(replica.commits)
        await replica.wait_longer(sent)


async def say_nothing(
    replica: FakeReplica, request: pb.SubscribeRequest, context: Any
) -> AsyncIterator[pb.SubscribeResponse]:
    """Sends what there is, then never a heartbeat."""
    yield head_of(replica.commits)
    await asyncio.sleep(30)


async def break_chain(
    replica: FakeReplica, request: pb.SubscribeRequest, context: Any
) -> AsyncIterator[pb.SubscribeResponse]:
    """Leaves out a commit, the first time."""
    if len(replica.subscriptions) > 1:
        async for response in serve_log(replica, request, context):
            yield response
        return
    for commit in [*replica.commits[:2], *replica.commits[3:]]:
        yield pb.SubscribeResponse(commit=commit.encoded)
    yield head_of(replica.commits)
    await asyncio.sleep(30)


async def serve_trimmed(
    replica: FakeReplica, request: pb.SubscribeRequest, context: Any
) -> AsyncIterator[pb.SubscribeResponse]:
    """As a good replica does whose log begins with its last commit: what was before is in a snapshot."""
    last = replica.commits[-1]
    if 1 < request.from_seq < last.first_seq:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, f"the log begins at seq {last.first_seq}")
    if request.from_seq <= 1:
        state = State()
        for commit in replica.commits[:-1]:
            for number, record in enumerate(commit.records):
                fold_record(state, commit.first_seq + number, record)
        records = [record for part in encode_parts(freeze(state)) for record in part]
        yield pb.SubscribeResponse(
            snapshot=pb.SnapshotPart(
                seq=state.seq, chain=last.chain_before, state_digest=state.digest, records=records, last=True
            )
        )
    yield pb.SubscribeResponse(commit=last.encoded)
    while True:
        yield head_of(replica.commits)
        await replica.wait_longer(len(replica.commits))
