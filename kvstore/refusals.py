"""What an error of a call to etcd means: try elsewhere, take a new token, or believe it. PURE.

Easy to get wrong: gRPC's codes do not say whether a write was applied. Only a call that never got a connection, or one
that etcd refused in words, surely was not. And an expired token comes as "permission denied" on a watch.
"""

from __future__ import annotations

from enum import Enum

import grpc

from kilim.kvstore.errors import (
    Compacted,
    Denied,
    FutureRevision,
    KvError,
    LeaseLost,
    NoSpace,
    Rejected,
    TooLarge,
)


class Verdict(Enum):
    NOT_SENT = "not sent"
    """Surely not applied; another try is free."""
    UNANSWERED = "unanswered"
    """May have been applied, or may yet be."""
    TOKEN = "token"
    """Refused for want of a valid token; surely not applied."""
    REFUSED = "refused"
    """Refused for good; surely not applied."""


_REFUSALS: tuple[tuple[str, type[KvError]], ...] = (
    ("database space exceeded", NoSpace),
    ("request is too large", TooLarge),
    ("too many operations", TooLarge),
    ("message larger than max", TooLarge),
    ("future revision", FutureRevision),
    ("requested lease not found", LeaseLost),
    ("permission denied", Denied),
    ("authentication failed", Denied),
    ("invalid auth token", Denied),
    ("user name is empty", Denied),
)

_TOKEN_WORDS = ("invalid auth token", "permission denied", "user name is empty", "revision of auth store is old")

_UNANSWERED = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.ABORTED,
    }
)


def judge_error(code: grpc.StatusCode, details: str) -> Verdict:
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return Verdict.TOKEN
    if any(words in details for words in _TOKEN_WORDS):
        return Verdict.TOKEN
    if code is grpc.StatusCode.UNAVAILABLE and details.startswith("failed to connect"):
        return Verdict.NOT_SENT
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "too many requests" in details:
        return Verdict.NOT_SENT
    if code in _UNANSWERED:
        return Verdict.UNANSWERED
    return Verdict.REFUSED


def refusal(code: grpc.StatusCode, details: str) -> KvError:
    """The error to raise once the refusal is believed."""
    if "has been compacted" in details:
        return Compacted(0)
    for words, kind in _REFUSALS:
        if words in details:
            return kind(details)
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return Denied(details)
    return Rejected(f"{code.name}: {details}")
