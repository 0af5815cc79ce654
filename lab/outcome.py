"""What may be concluded from a call that failed: surely not done, an answer, or perhaps done.

Easy to get wrong: UNAVAILABLE is also what gRPC itself says of a connection that broke after the request had left.
Only the server's own mark (`controlplane/api/status.py`), or that there was no connection, says "surely not".
"""

from collections.abc import Iterable
from enum import Enum
from typing import Any

import grpc

_NOT_APPLIED = ("kilim-not-applied", "1")
_NEVER_SENT = ("failed to connect", "dns resolution failed")
_PERHAPS = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
}
_SAYS_NOTHING = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL}


class Outcome(Enum):
    NOT_DONE = "not done"  # to be tried elsewhere
    PERHAPS = "perhaps done"  # to be tried elsewhere where repeating is harmless
    ANSWER = "an answer"  # any other server would give the same


def outcome_of(error: Any, perhaps: bool = False) -> Outcome:
    """`error` is a grpc.RpcError, of a blocking call or an asynchronous one; `perhaps`: an earlier attempt is in doubt.

    Then a refusal that does not look at the state (too busy, another version) leaves the doubt.
    """
    code = error.code()
    if code is grpc.StatusCode.UNAVAILABLE:
        trailing: Iterable[tuple[str, object]] = error.trailing_metadata() or ()
        marked = any((key, value) == _NOT_APPLIED for key, value in trailing)
        if marked or str(error.details() or "").lower().startswith(_NEVER_SENT):
            return Outcome.NOT_DONE
    return Outcome.PERHAPS if code in _PERHAPS or (perhaps and code in _SAYS_NOTHING) else Outcome.ANSWER


def unknown(reasons: Iterable[str]) -> str:
    """The one line that says so."""
    return f"outcome unknown: {', '.join(reasons)}; repeating it is harmless"


def reason(details: str) -> str:
    """A server's own "outcome unknown: …; repeating it is harmless" without what `unknown` says again."""
    if details.lower().startswith("outcome unknown: "):
        details = details[len("outcome unknown: ") :]
    return details.removesuffix("; repeating it is harmless")
