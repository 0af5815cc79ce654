"""Addresses of the node's pods, given out from its pod CIDRs. PURE.

Easy to get wrong: nothing here remembers who holds what; the caller says what is in use (the log, the links, ADDs in
flight). Only the place where the last search ended is kept, so that a released address is not given out again at once.
"""

from collections.abc import Callable, Iterable, Sequence

from kilim.model.address import Cidr, format_ip


class PoolExhausted(Exception):
    """Every address of the node's pod CIDRs is in use."""


class AddressNotOurs(ValueError):
    """An address was asked for that this node may not give out."""


def usable_range(cidr: Cidr) -> range:
    """The addresses of a pod CIDR that a pod may have: not the network, not the gateway (.1), not broadcast."""
    size = 1 << (32 - cidr.prefix_len)
    return range(cidr.ip + 2, max(cidr.ip + 2, cidr.ip + size - 1))


class AddressPool:
    """Round robin over all usable addresses of several CIDRs, in the order given."""

    def __init__(self, cidrs: Sequence[Cidr]) -> None:
        self.cidrs = tuple(cidrs)
        self._ranges = [usable_range(cidr) for cidr in cidrs]
        self._size = sum(len(r) for r in self._ranges)
        self._next = 0

    def start_after(self, used: Iterable[int]) -> None:
        """After a restart: go on behind the highest address in use, where the last search most likely ended."""
        positions = [position for ip in used if (position := self._position(ip)) is not None]
        if positions and self._size:
            self._next = (max(positions) + 1) % self._size

    def choose(self, in_use: Callable[[int], bool]) -> int:
        """The next free address. Raises PoolExhausted."""
        for step in range(self._size):
            position = (self._next + step) % self._size
            ip = self._at(position)
            if not in_use(ip):
                self._next = (position + 1) % self._size
                return ip
        named = ", ".join(str(cidr) for cidr in self.cidrs) or "none"
        raise PoolExhausted(f"all {self._size} addresses of the node's pod CIDRs ({named}) are in use")

    def check(self, ip: int) -> None:
        """Raises AddressNotOurs unless a pod of this node may have `ip`."""
        if self._position(ip) is not None:
            return
        named = ", ".join(str(cidr) for cidr in self.cidrs) or "none"
        if any(cidr.contains_ip(ip) for cidr in self.cidrs):
            raise AddressNotOurs(f"{format_ip(ip)} is a network, gateway or broadcast address of {named}")
        raise AddressNotOurs(f"{format_ip(ip)} is in none of the node's pod CIDRs ({named})")

    def _at(self, position: int) -> int:
        for addresses in self._ranges:
            if position < len(addresses):
                return addresses[position]
            position -= len(addresses)
        raise IndexError(position)

    def _position(self, ip: int) -> int | None:
        before = 0
        for addresses in self._ranges:
            if ip in addresses:
                return before + addresses.index(ip)
            before += len(addresses)
        return None
