"""Refusals and failures as gRPC status: the one place that says which code means what to a client.

1. INVALID_ARGUMENT: the input breaks a rule.         2. NOT_FOUND: it names what is not there.
3. FAILED_PRECONDITION: the state stands against it.  4. RESOURCE_EXHAUSTED: a table, a range or etcd is full.
5. UNAVAILABLE: try again, elsewhere if you can. Surely not done where the trailing metadata has NOT_APPLIED; without
   it gRPC itself may have said so, of a connection that broke when the request had left.
6. UNKNOWN: perhaps done; repeating it is harmless.   7. INTERNAL: an error of ours.
8. OUT_OF_RANGE: of the log, trimmed; the message names the first event that is held.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import grpc

from kilim.controlplane.decide.refusal import Code, Refusal
from kilim.controlplane.writer import Busy
from kilim.kvstore.errors import KvError, NoSpace, OutcomeUnknown, Trimmed, Unavailable
from kilim.model.invalid import Invalid

Context = grpc.aio.ServicerContext[Any, Any]

_CODES = {
    Code.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Code.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    Code.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    match error:
        case Refusal():
            return _CODES[error.code], _one_line(error.message)
        case Invalid():
            return grpc.StatusCode.INVALID_ARGUMENT, _one_line(str(error))
        case Busy() | NoSpace():
            return grpc.StatusCode.RESOURCE_EXHAUSTED, _one_line(str(error))
        case Trimmed():
            return grpc.StatusCode.OUT_OF_RANGE, _one_line(str(error))
        case OutcomeUnknown():
            return grpc.StatusCode.UNKNOWN, f"outcome unknown: {_one_line(str(error))}; repeating it is harmless"
        case Unavailable() | KvError():
            return grpc.StatusCode.UNAVAILABLE, _one_line(str(error))
        case _:
            return grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {_one_line(str(error))}"


NOT_APPLIED = ("kilim-not-applied", "1")
NOT_LOADED = "this replica has not read the log yet"


async def abort(context: Context, error: Exception) -> NoReturn:
    surely_not = isinstance(error, Unavailable)
    await context.abort(*status_of(error), trailing_metadata=(NOT_APPLIED,) if surely_not else ())


@asynccontextmanager
async def answering(context: Context) -> AsyncIterator[None]:
    """What is raised within becomes the call's status."""
    try:
        yield
    except (Refusal, Invalid, Busy, KvError) as error:
        await abort(context, error)


def _one_line(text: str) -> str:
    return " ".join(text.split())
