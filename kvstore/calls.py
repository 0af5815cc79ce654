"""One call to etcd as its caller means it: short attempts, each on the endpoint that looks best, and a true account of
what became of a write.

Easy to get wrong: one long deadline. A follower whose leader died holds a request for 7 s; another try elsewhere
takes 1.5 s. And a write that was tried twice may have been applied by the first try: see `Repeat`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

import grpc

from kilim.etcd import rpc_pb2
from kilim.kvstore.endpoints import Endpoint, Endpoints, Tls
from kilim.kvstore.errors import OutcomeUnknown, Unavailable
from kilim.kvstore.refusals import Verdict, judge_error, refusal

CALL_TIMEOUT_S = 10.0
ATTEMPT_S = 1.5
_ATTEMPT_MOST_S = 6.0
_PAUSE_FIRST_S = 0.02
_PAUSE_MOST_S = 0.25

T = TypeVar("T")
Metadata = tuple[tuple[str, str], ...]
Attempt = Callable[[Endpoint, float, Metadata], Awaitable[T]]


class Repeat(Enum):
    READ = "read"
    """Changes nothing."""
    HARMLESS = "harmless"
    """A write that may be applied twice, or is guarded so that it cannot be: tried again after an ambiguous try."""
    NEVER = "never"
    """A write that must not be tried again once it may have been applied."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """`repeated`: an earlier try went unanswered, so the write may have been applied before this answer came."""

    value: T
    repeated: bool


def describe_error(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details() or 'no details'}"


class Calls:
    """Everything that a client sends goes through here, except that streams only borrow endpoint and token."""

    def __init__(self, endpoints: Sequence[str], tls: Tls | None, user: str | None, password: str | None) -> None:
        if (user is None) != (password is None):
            raise ValueError("user and password of etcd are given together or not at all")
        self.endpoints = Endpoints(endpoints, tls)
        self._user = user
        self._password = password
        self._token: str | None = None
        self._token_lock = asyncio.Lock()

    async def close(self) -> None:
        await self.endpoints.close()

    async def metadata(self, endpoint: Endpoint) -> Metadata:
        """`hasleader`: a member cut off from its cluster says so instead of keeping a stream silent."""
        if self._user is None:
            return (("hasleader", "true"),)
        if self._token is None:
            await self.renew_token(endpoint, None)
        return (("hasleader", "true"), ("token", self._token or ""))

    def has_credentials(self) -> bool:
        return self._user is not None

    def current_token(self) -> str | None:
        return self._token

    async def renew_token(self, endpoint: Endpoint, stale: str | None) -> None:
        """One call at a time asks for a token; those who waited find that theirs is no longer the stale one."""
        async with self._token_lock:
            if self._token != stale:
                return
            request = rpc_pb2.AuthenticateRequest(name=self._user or "", password=self._password or "")
            try:
                answer = await endpoint.auth.Authenticate(request, timeout=ATTEMPT_S)
            except grpc.aio.AioRpcError as error:
                if "authentication is not enabled" not in (error.details() or ""):
                    raise
                self._token = ""
            else:
                self._token = answer.token

    async def call(self, attempt: Attempt[T], repeat: Repeat, timeout_s: float = CALL_TIMEOUT_S) -> Answer[T]:
        """Raises Unavailable where nothing was surely written, OutcomeUnknown where it may have been."""
        deadline = time.monotonic() + timeout_s
        unanswered = 0
        pause_s = _PAUSE_FIRST_S
        renewed = False
        while True:
            endpoint = self.endpoints.choose()
            token, sent = self._token, False
            patience_s = ATTEMPT_S * 2.0 ** (unanswered // len(self.endpoints.all))
            left_s = max(deadline - time.monotonic(), 0.05)
            try:
                metadata = await self.metadata(endpoint)
                sent = True
                value = await attempt(endpoint, min(patience_s, _ATTEMPT_MOST_S, left_s), metadata)
            except grpc.aio.AioRpcError as error:
                verdict = judge_error(error.code(), error.details() or "")
                if verdict is Verdict.TOKEN and self.has_credentials() and not renewed:
                    renewed = True
                    await self._try_renewing(endpoint, token)
                    continue
                if verdict in (Verdict.REFUSED, Verdict.TOKEN):
                    _raise_refusal(error, written=unanswered > 0 and repeat is not Repeat.READ)
                endpoint.mark_failed(describe_error(error))
                unanswered += sent and verdict is Verdict.UNANSWERED
                _raise_if_hopeless(error, repeat, unanswered, time.monotonic() + pause_s >= deadline)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _PAUSE_MOST_S)
            else:
                endpoint.mark_answered()
                return Answer(value, repeated=unanswered > 0)

    async def _try_renewing(self, endpoint: Endpoint, stale: str | None) -> None:
        try:
            await self.renew_token(endpoint, stale)
        except grpc.aio.AioRpcError as error:
            if judge_error(error.code(), error.details() or "") in (Verdict.REFUSED, Verdict.TOKEN):
                raise refusal(error.code(), error.details() or "") from error
            endpoint.mark_failed(describe_error(error))


def _raise_refusal(error: grpc.aio.AioRpcError, written: bool) -> None:
    """The refusal is of this try; an earlier one that went unanswered may still have been applied."""
    refused = refusal(error.code(), error.details() or "")
    if written:
        raise OutcomeUnknown(f"an unanswered try, then: {refused}") from error
    raise refused from error


def _raise_if_hopeless(error: grpc.aio.AioRpcError, repeat: Repeat, unanswered: int, out_of_time: bool) -> None:
    maybe_written = unanswered > 0 and repeat is not Repeat.READ
    if maybe_written and (out_of_time or repeat is Repeat.NEVER):
        raise OutcomeUnknown(describe_error(error)) from error
    if out_of_time:
        raise Unavailable(describe_error(error)) from error
