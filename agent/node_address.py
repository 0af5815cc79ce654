"""The node's address in the long run: found at the start where it is not given, and looked after from then on.

Easy to get wrong: between two addresses (DHCP, a device that is made anew) there may be none for a while. Nothing is
done before another one has stayed for some looks; nor while a family is missing, as the pods have theirs.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace

import structlog

from kilim.agent.backoff import Backoff
from kilim.agent.netlink.session import NetlinkSession
from kilim.agent.netlink.uplink import NoUnderlay, StillProbed, Uplink, find_uplink
from kilim.agent.settings import Settings
from kilim.model.address import format_ip, is_ipv6

log = structlog.get_logger(__name__)

_LOOK_S = 1.0
_LOOKS = 3
_DAD_S, _DAD_STEP_S = 5.0, 0.1
_FAMILY_S = 10.0


async def resolve_addresses(settings: Settings, held: Collection[int] | None = None) -> Settings:
    """With the node's addresses. `held`: those of before, of an agent that starts anew: it waits for some as long as it
    takes, and a while for each family that it had. Raises NoUnderlay, OSError."""
    session, backoff = NetlinkSession(), Backoff(0.5, 5.0)
    patient_until_s = asyncio.get_running_loop().time() + _FAMILY_S
    try:
        while True:
            try:
                found = await _find(session, settings, held or ())
                lost = lost_families(held or (), found)
                if not lost or asyncio.get_running_loop().time() > patient_until_s:
                    return _with_ips(settings, found.ips)
                reason = lost
            except NoUnderlay as error:
                if held is None:
                    raise
                reason = str(error)
            log.warning("the node has not all its addresses", node=settings.node_name, reason=reason)
            await asyncio.sleep(backoff.next_s())
    finally:
        await session.close()


def lost_families(held: Collection[int], found: Uplink) -> str:
    """Of which there were addresses and are none, in words; empty: none."""
    lost = set(map(is_ipv6, held)) - set(map(is_ipv6, found.ips))
    families = " and ".join("IPv6" if each else "IPv4" for each in sorted(lost))
    return f"{found.name} has no {families} address any more" if lost else ""


async def _find(session: NetlinkSession, settings: Settings, held: Collection[int]) -> Uplink:
    deadline = asyncio.get_running_loop().time() + _DAD_S
    while True:
        try:
            return await find_uplink(session, settings.node_ips, settings.devices, held)
        except StillProbed:  # of a node that has just booted
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(_DAD_STEP_S)


def _with_ips(settings: Settings, ips: tuple[int, ...]) -> Settings:
    by_family = {is_ipv6(ip): format_ip(ip) for ip in ips}
    return replace(settings, node_ip=by_family.get(False, ""), node_ipv6=by_family.get(True, ""))


class AddressWatch:
    """`held`: what the datapath was opened with. `given`: the addresses were, and are not to be looked for. `check`
    raises NoUnderlay where it could not be opened with something else. `tell` takes what is wrong, empty: nothing.
    `moved` is set when the agent has to start anew with what there is now."""

    def __init__(
        self,
        session: NetlinkSession,
        held: Uplink,
        devices: tuple[str, ...],
        given: bool,
        tell: Callable[[str], None],
        check: Callable[[Uplink], object] = lambda _: None,
    ) -> None:
        self._session = session
        self._held = held
        self._devices = devices
        self._given = given
        self._tell = tell
        self._check = check
        self.moved = asyncio.Event()

    async def follow(self) -> None:
        last, looks = self._held, 0
        while not self.moved.is_set():
            await asyncio.sleep(_LOOK_S)
            seen = await self._look()
            looks = looks + 1 if seen == last else 1
            last = seen or last
            if seen is not None and seen != self._held and looks >= _LOOKS:
                now = {"ips": [format_ip(ip) for ip in seen.ips], "device": seen.name, "mtu": seen.mtu}
                log.info("the underlay has changed; starting anew", **now)
                self.moved.set()

    async def _look(self) -> Uplink | None:
        ips = self._held.ips if self._given else ()
        try:
            seen = await find_uplink(self._session, ips, self._devices, self._held.ips)
            self._check(seen)
        except (NoUnderlay, OSError) as error:
            self._tell(str(error))
            return None
        lost = lost_families(self._held.ips, seen)
        self._tell(lost)
        return None if lost else seen
