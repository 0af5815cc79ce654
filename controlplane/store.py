"""How etcd is and who else is here: looked at regularly and remembered, for status and for refusing early.

Easy to get wrong: an etcd that answers may still refuse writes (no quorum, no space); that shows when one is tried.
"""

import asyncio
import time
from dataclasses import dataclass, field

import structlog

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.errors import KvError
from kilim.kvstore.maintenance import EndpointStatus
from kilim.kvstore.session import Session

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

FULL = (
    "etcd is at its quota and takes no writes: run `kilim log compact --defragment`; where that frees too little, "
    "raise its --quota-backend-bytes, or lower the setting log-retention-events and compact again"
)
LOOK_EVERY_S = 2.0
LOOK_AGAIN_S = 0.3


@dataclass(slots=True)
class Store:
    """`statuses` is the last look; `error` is not empty while no endpoint answers."""

    client: EtcdClient
    statuses: list[EndpointStatus] = field(default_factory=list)
    error: str = ""
    members: dict[str, str] = field(default_factory=dict)
    _gone: dict[str, tuple[str, float]] = field(default_factory=dict)  # name -> address, since when
    _since_s: float = field(default_factory=time.monotonic)

    @property
    def reachable(self) -> bool:
        return bool(self.statuses) and not self.error

    @property
    def full(self) -> bool:
        """At its quota, as of the last look."""
        return any("NOSPACE" in alarm for status in self.statuses for alarm in status.alarms)

    def why_not(self) -> str:
        """Empty, also before the first look; or one line for whoever is refused."""
        if not self.error:
            return ""
        return f"etcd is unreachable since {time.monotonic() - self._since_s:.0f} s: {self.error}"

    def missed(self, for_s: float) -> dict[str, str]:
        """Replicas that were members and have gone in the last `for_s` seconds, with their addresses."""
        since_s = time.monotonic() - for_s
        return {name: address for name, (address, gone_s) in sorted(self._gone.items()) if gone_s > since_s}

    def see_members(self, members: dict[str, str]) -> None:
        now_s = time.monotonic()
        self._gone |= {name: (address, now_s) for name, address in self.members.items() if name not in members}
        self._gone = {name: gone for name, gone in self._gone.items() if name not in members}
        self.members = members

    async def look(self) -> None:
        statuses = await self.client.status()
        answering = [status for status in statuses if not status.error]
        error = "" if answering else "; ".join(f"{status.endpoint}: {status.error}" for status in statuses)
        if error and not self.error:
            self._since_s = time.monotonic()
            _logger.error("etcd unreachable", error=error)
        elif not error and not self.reachable:
            _logger.info("etcd reached", version=answering[0].version, endpoint=answering[0].endpoint)
        self.statuses, self.error = statuses, error

    async def watch(self) -> None:
        """For ever: `look` now and then."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S if self.reachable else LOOK_AGAIN_S)

    async def watch_members(self, session: Session) -> None:
        """For ever: the replicas of the cluster by name, with their advertised addresses."""
        while True:
            try:
                async for members in session.watch_members():
                    self.see_members({name: value.decode(errors="replace") for name, value in members.items()})
            except KvError as error:
                _logger.warning("replicas cannot be listed", error=str(error))
                await asyncio.sleep(LOOK_EVERY_S)
