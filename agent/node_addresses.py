"""What this node's devices have of addresses, as they have them: `host` to pods, as the one that it is known by."""

import asyncio
from collections.abc import Callable, Collection

import structlog

from kilim.agent.netlink.session import NetlinkSession
from kilim.agent.netlink.uplink import read_own_addresses
from kilim.model.address import format_ip

log = structlog.get_logger(__name__)

_LOOK_S = 1.0


class NodeAddresses:
    """`write` takes all of them; it raises OSError."""

    def __init__(self, session: NetlinkSession, write: Callable[[Collection[int]], None]) -> None:
        self._session = session
        self._write = write
        self._written: frozenset[int] | None = None
        self._told = ""

    async def apply(self) -> None:
        """Nothing depends on it: what fails is said in the log, and tried again at the next look."""
        try:
            ips = await read_own_addresses(self._session)
            if ips != self._written:
                self._write(ips)
                log.info("addresses of this node", addresses=sorted(map(format_ip, ips)))
                self._written, self._told = ips, ""
        except OSError as error:
            reason = error.strerror or str(error)
            if reason != self._told:
                log.warning("addresses of this node could not be written, some may be world to pods", reason=reason)
            self._told = reason

    async def follow(self) -> None:
        """Never ends."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await self.apply()
