"""Changes of a range of keys from a revision on, over any number of lost streams and restarted members.

Easy to get wrong: resuming from `header.revision`. It is the store's present revision, far ahead of what was delivered
while a watch catches up; resuming there loses events without a word. Only delivered events move us on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import grpc
import structlog

from kilim.etcd import rpc_pb2
from kilim.kvstore.calls import ATTEMPT_S, Calls, describe_error
from kilim.kvstore.endpoints import Endpoint
from kilim.kvstore.errors import Compacted, Denied
from kilim.kvstore.keyvalue import Event, decode_event
from kilim.kvstore.refusals import Verdict, judge_error, refusal

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_PAUSE_FIRST_S = 0.05
_PAUSE_MOST_S = 1.0

WatchStream = grpc.aio.StreamStreamCall[rpc_pb2.WatchRequest, rpc_pb2.WatchResponse]


class _Lost(Exception):
    """This stream is over; another may do better."""


class _TokenRefused(Exception):
    """etcd says that we may not watch: an old token, or the truth."""


class Watch:
    """One stream at a time with one watch on it: etcd's progress is per stream. An empty `end` is the one key."""

    def __init__(self, calls: Calls, start: bytes, end: bytes, start_revision: int) -> None:
        self._calls = calls
        self._start = start
        self._end = end
        self._next_revision = start_revision
        self._pause_s = _PAUSE_FIRST_S
        self._renewed = False

    async def batches(self) -> AsyncGenerator[tuple[Event, ...], None]:
        """Never ends by itself; waits out an etcd that is away. Raises Compacted or Denied."""
        while True:
            endpoint = self._calls.endpoints.choose()
            token = self._calls.current_token()
            try:
                async with contextlib.aclosing(self._stream_batches(endpoint)) as batches:
                    async for batch in batches:
                        yield batch
            except _TokenRefused as refused:
                if self._renewed or not self._calls.has_credentials():
                    raise Denied(f"watch: {refused}") from refused
                self._renewed = True
                await self._renew_token(endpoint, token)
            except _Lost as lost:
                endpoint.mark_failed(f"watch: {lost}")
                await asyncio.sleep(self._pause_s)
                self._pause_s = min(self._pause_s * 2, _PAUSE_MOST_S)

    async def _renew_token(self, endpoint: Endpoint, stale: str | None) -> None:
        try:
            await self._calls.renew_token(endpoint, stale)
        except grpc.aio.AioRpcError as error:
            if judge_error(error.code(), error.details() or "") in (Verdict.REFUSED, Verdict.TOKEN):
                raise Denied(describe_error(error)) from error
            endpoint.mark_failed(describe_error(error))

    async def _stream_batches(self, endpoint: Endpoint) -> AsyncGenerator[tuple[Event, ...], None]:
        stream: WatchStream | None = None
        try:
            async with asyncio.timeout(ATTEMPT_S):
                stream = endpoint.watch.Watch(metadata=await self._calls.metadata(endpoint))
                created = await self._create(stream)
            if self._next_revision == 0:
                self._next_revision = created.header.revision + 1
            endpoint.mark_answered()
            self._pause_s, self._renewed = _PAUSE_FIRST_S, False
            response = created
            while True:
                if response.events:
                    events = tuple(decode_event(event) for event in response.events)
                    self._next_revision = events[-1].kv.mod_revision + 1
                    yield events
                response = await _read(stream)
        except TimeoutError as error:
            raise _Lost(f"no answer within {ATTEMPT_S} s") from error
        except grpc.aio.AioRpcError as error:
            _raise_stream_error(error)
        finally:
            if stream is not None:
                stream.cancel()

    async def _create(self, stream: WatchStream) -> rpc_pb2.WatchResponse:
        request = rpc_pb2.WatchCreateRequest(key=self._start, range_end=self._end, start_revision=self._next_revision)
        # A stream that is over already says why when it is read.
        with contextlib.suppress(asyncio.InvalidStateError):
            await stream.write(rpc_pb2.WatchRequest(create_request=request))
        return await _read(stream)


async def _read(stream: WatchStream) -> rpc_pb2.WatchResponse:
    response = await stream.read()
    if not isinstance(response, rpc_pb2.WatchResponse):
        raise _Lost("etcd closed the stream")
    if response.compact_revision:
        raise Compacted(response.compact_revision)
    if response.canceled:
        if judge_error(grpc.StatusCode.ABORTED, response.cancel_reason) is Verdict.TOKEN:
            raise _TokenRefused(response.cancel_reason)
        raise _Lost(response.cancel_reason or "etcd cancelled the watch")
    return response


def _raise_stream_error(error: grpc.aio.AioRpcError) -> None:
    verdict = judge_error(error.code(), error.details() or "")
    if verdict is Verdict.TOKEN:
        raise _TokenRefused(describe_error(error)) from error
    if verdict is Verdict.REFUSED:
        raise refusal(error.code(), error.details() or "") from error
    raise _Lost(describe_error(error)) from error
