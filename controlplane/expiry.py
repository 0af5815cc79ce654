"""After the grace period: releases identities that no endpoint has had, takes labels of prefixes away that no policy
has named. Run by every replica, acts where it is the leader.

Easy to get wrong: "unused since" is this process's own memory; a new leader begins to count anew, which only keeps
identities longer. The release itself is decided on the state, so two leaders at once do no harm (I5).
"""

import asyncio
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

import structlog

from kilim.controlplane.decide.command import ReleaseIdentities, WithdrawMemberships
from kilim.controlplane.decide.identity import is_used
from kilim.controlplane.decide.membership import unneeded_prefixes
from kilim.controlplane.decide.node_identity import unneeded_node_identities
from kilim.controlplane.decide.refusal import Refusal
from kilim.controlplane.decide.view import View
from kilim.controlplane.phases import PhasedWriter
from kilim.controlplane.replica import Replica
from kilim.controlplane.writer import Busy
from kilim.kvstore.errors import KvError
from kilim.model.address import Cidr
from kilim.model.identity import is_shared
from kilim.model.settings import IDENTITY_RELEASE_GRACE_S

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

T = TypeVar("T", bound=Hashable)

LOOK_EVERY_S = 10.0
RELEASE_AT_ONCE = 1000
WITHDRAWALS_MAX = 100  # of some hundred endpoints each; the rest has its turn after the next look


class Unused(Generic[T]):
    """Since when each thing has been of no use, by a monotonic clock that the caller reads."""

    def __init__(self) -> None:
        self._since_s: dict[T, float] = {}

    def expired(self, unused: Iterable[T], now_s: float, grace_s: float) -> tuple[T, ...]:
        self._since_s = {each: self._since_s.get(each, now_s) for each in unused}
        return tuple(each for each, since_s in self._since_s.items() if now_s - since_s >= grace_s)

    def forget(self) -> None:
        self._since_s.clear()


def unused_identities(view: View) -> list[int]:
    """Those that no endpoint and no node has, sorted."""
    return sorted(number for number in view.state.identities if is_shared(number) and not is_used(view, number))


async def run_expiry(
    replica: Replica, writer: PhasedWriter, is_leader: Callable[[], bool], actor: str, every_s: float = LOOK_EVERY_S
) -> None:
    """For ever."""
    identities, prefixes, of_nodes = Unused[int](), Unused[Cidr](), Unused[int]()
    while True:
        if not is_leader() or not replica.loaded:
            identities.forget()
            prefixes.forget()
            of_nodes.forget()
        else:
            now_s, grace_s = time.monotonic(), IDENTITY_RELEASE_GRACE_S.read(replica.state)
            numbers = identities.expired(unused_identities(replica.view), now_s, grace_s)
            unneeded = prefixes.expired(unneeded_prefixes(replica.view), now_s, grace_s)
            told_apart = of_nodes.expired(unneeded_node_identities(replica.view), now_s, grace_s)
            try:
                if numbers:
                    await _release(writer, numbers[:RELEASE_AT_ONCE], actor)
                for _ in range(WITHDRAWALS_MAX):
                    if not unneeded and not told_apart:
                        break
                    await writer.submit(WithdrawMemberships(unneeded), actor)
                    unneeded = tuple(each for each in unneeded_prefixes(replica.view) if each in unneeded)
                    told_apart = tuple(set(told_apart) & set(unneeded_node_identities(replica.view)))
            except (KvError, Busy, Refusal) as error:
                _logger.warning("what is of no use is not released, trying again", error=str(error))
        await asyncio.sleep(every_s)


async def _release(writer: PhasedWriter, numbers: tuple[int, ...], actor: str) -> None:
    answer = await writer.submit(ReleaseIdentities(numbers), actor)
    _logger.info("identities released", count=len(numbers), seq=answer.seq)
