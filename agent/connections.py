"""The connection table in the long run: expired entries go from time to time, and those of an address that is no
endpoint's any more before it is given out again.

Easy to get wrong: what one call looks for is not what another has under way, so they go one after the other.
"""

import asyncio
from collections.abc import Collection

import structlog

from kilim.agent.bpf.connections import Collected, addresses_of, collect_expired, remove_connections
from kilim.agent.bpf.maps import Maps
from kilim.agent.core.gc_interval import MOST_S, START_S, next_interval_s
from kilim.agent.threads import in_thread
from kilim.model.address import Cidr, format_ip

log = structlog.get_logger(__name__)


class Connections:
    """`gc_interval_s` 0: as long as it is worth, up to `gc_max_interval_s` (0: 12 hours)."""

    def __init__(self, maps: Maps, gc_interval_s: float = 0.0, gc_max_interval_s: float = 0.0) -> None:
        self._maps = maps
        self._fixed_s = gc_interval_s
        self._most_s = gc_max_interval_s or MOST_S
        self._alone = asyncio.Lock()
        self.runs = 0
        self.deleted = 0
        self.alive = 0

    async def flush(self, ips: Collection[int] | None = None) -> int:
        """Those of these addresses, or all; how many. What masquerade has for them stays for when they go on. Raises
        OSError."""
        async with self._alone:
            removed = await in_thread(lambda: remove_connections(self._maps, ips))
        log.info("connections removed", count=removed, ips=[format_ip(ip) for ip in ips or ()] or "all")
        return removed

    async def forget(self, ips: Collection[int]) -> None:
        """Of endpoints that are gone. A table that cannot be read is said, and lives on."""
        try:
            async with self._alone:
                await in_thread(lambda: remove_connections(self._maps, ips, with_mappings=True))
        except OSError as error:
            log.warning("connections of removed endpoints stay until they expire", reason=str(error))

    async def addresses(self, cidrs: Collection[Cidr]) -> set[int]:
        """All in `cidrs` that connections have at their ends; none where they cannot be read."""
        try:
            async with self._alone:
                return await in_thread(lambda: addresses_of(self._maps, cidrs))
        except OSError as error:
            log.warning("connections cannot be read", reason=str(error))
            return set()

    async def collect(self) -> Collected:
        """What has expired. Raises OSError."""
        async with self._alone:
            found = await in_thread(lambda: collect_expired(self._maps))
        self.runs += 1
        self.deleted += found.deleted
        self.alive = found.alive
        return found

    async def end(self) -> None:
        """The maps may be closed then: nothing is under way any more, and nothing begins."""
        await self._alone.acquire()

    async def run(self) -> None:
        interval_s = self._fixed_s or min(START_S, self._most_s)
        while True:
            await asyncio.sleep(interval_s)
            try:
                found = await self.collect()
            except OSError as error:
                log.warning("expired connections could not be collected", reason=str(error))
                continue
            if not self._fixed_s:
                interval_s = next_interval_s(interval_s, found.alive, found.deleted, self._most_s)
            log.debug("expired connections collected", **found._asdict(), next_s=round(interval_s))
