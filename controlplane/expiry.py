"""Releases identities that no endpoint has had for the grace period. Run by every replica, acts where it is the leader.

Easy to get wrong: "unused since" is this process's own memory; a new leader begins to count anew, which only keeps
identities longer. The release itself is decided on the state, so two leaders at once do no harm (I5).
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from kilim.controlplane.decide.command import ReleaseIdentities
from kilim.controlplane.decide.refusal import Refusal
from kilim.controlplane.decide.setting import identity_grace_s
from kilim.controlplane.replica import Replica
from kilim.controlplane.writer import Busy, Writer
from kilim.kvstore.errors import KvError
from kilim.model.identity import FIRST_CLUSTER_LOCAL, LAST_CLUSTER_LOCAL
from kilim.model.state import State

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

LOOK_EVERY_S = 10.0
RELEASE_AT_ONCE = 1000


class Unused:
    """Since when each identity has had no endpoint, by a monotonic clock that the caller reads."""

    def __init__(self) -> None:
        self._since_s: dict[int, float] = {}

    def expired(self, state: State, now_s: float, grace_s: float) -> list[int]:
        unused = {
            number
            for number in state.identities
            if FIRST_CLUSTER_LOCAL <= number <= LAST_CLUSTER_LOCAL and number not in state.endpoints_of_identity
        }
        self._since_s = {number: self._since_s.get(number, now_s) for number in sorted(unused)}
        return [number for number, since_s in self._since_s.items() if now_s - since_s >= grace_s]

    def forget(self) -> None:
        self._since_s.clear()


async def run_expiry(
    replica: Replica, writer: Writer, is_leader: Callable[[], bool], actor: str, every_s: float = LOOK_EVERY_S
) -> None:
    """For ever."""
    unused = Unused()
    while True:
        if not is_leader() or not replica.loaded:
            unused.forget()
        else:
            expired = unused.expired(replica.state, time.monotonic(), identity_grace_s(replica.state))
            if expired:
                await _release(writer, tuple(expired[:RELEASE_AT_ONCE]), actor)
        await asyncio.sleep(every_s)


async def _release(writer: Writer, numbers: tuple[int, ...], actor: str) -> None:
    try:
        answer = await writer.submit(ReleaseIdentities(numbers), actor)
        _logger.info("identities released", count=len(numbers), seq=answer.seq)
    except (KvError, Busy, Refusal) as error:
        _logger.warning("identities not released, trying again", error=str(error))
