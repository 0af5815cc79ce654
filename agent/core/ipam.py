"""Addresses of the node's pods, given out from its pod CIDRs: one per family that has any. PURE.

Easy to get wrong: nothing here remembers who holds what; the caller says what is in use (the log, the links, ADDs in
flight). Only the place where the last search ended is kept, so that a released address is not given out again at once.
And a CIDR of IPv6 has more addresses than len() of a range may say.
"""

from collections.abc import Callable, Collection, Sequence

from kilim.model.address import Cidr, format_ip, host_length, is_ipv6


class PoolExhausted(Exception):
    """Every address of the node's pod CIDRs is in use."""


class AddressNotOurs(ValueError):
    """An address was asked for that this node may not give out."""


def usable_range(cidr: Cidr) -> range:
    """The addresses of a pod CIDR that a pod may have: not the network (with IPv6 the routers' anycast address), not
    the gateway (.1, ::1), not the last, which is broadcast."""
    size = 1 << (host_length(cidr.ip) - cidr.prefix_len)
    last = 0 if is_ipv6(cidr.ip) else 1
    return range(cidr.ip + 2, max(cidr.ip + 2, cidr.ip + size - last))


class AddressPool:
    """Round robin over all usable addresses of the CIDRs of one family, in the order given."""

    def __init__(self, cidrs: Sequence[Cidr]) -> None:
        self.cidrs = tuple(cidrs)
        self._ranges = [usable_range(cidr) for cidr in cidrs]
        self._size = sum(map(_length, self._ranges))
        self._next = 0

    def start_after(self, used: Collection[int]) -> None:
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
        raise PoolExhausted(f"all {self._size} addresses of the node's pod CIDRs ({self}) are in use")

    def choose_last(self, in_use: Callable[[int], bool]) -> int:
        """The last free address, from the end backwards. Raises PoolExhausted."""
        for addresses in reversed(self._ranges):
            for position in range(_length(addresses) - 1, -1, -1):
                if not in_use(addresses[position]):
                    return addresses[position]
        raise PoolExhausted(f"all {self._size} addresses of the node's pod CIDRs ({self}) are in use")

    def check(self, ip: int) -> None:
        """Raises AddressNotOurs unless a pod of this node may have `ip`."""
        if self._position(ip) is not None:
            return
        if any(cidr.contains_ip(ip) for cidr in self.cidrs):
            what = "network or gateway" if is_ipv6(ip) else "network, gateway or broadcast"
            raise AddressNotOurs(f"{format_ip(ip)} is a {what} address of {self}")
        raise AddressNotOurs(f"{format_ip(ip)} is in none of the node's pod CIDRs ({self})")

    def __str__(self) -> str:
        return ", ".join(map(str, self.cidrs)) or "none"

    def _at(self, position: int) -> int:
        for addresses in self._ranges:
            if position < _length(addresses):
                return addresses[position]
            position -= _length(addresses)
        raise IndexError(position)

    def _position(self, ip: int) -> int | None:
        before = 0
        for addresses in self._ranges:
            if ip in addresses:
                return before + ip - addresses.start
            before += _length(addresses)
        return None


class AddressPools:
    """One pool per family of which the node has pod CIDRs, IPv4 first: a pod gets one address of each."""

    def __init__(self, cidrs: Sequence[Cidr]) -> None:
        self.cidrs = tuple(cidrs)
        by_family: dict[bool, list[Cidr]] = {}
        for cidr in cidrs:
            by_family.setdefault(is_ipv6(cidr.ip), []).append(cidr)
        self._pools = {family: AddressPool(by_family[family]) for family in sorted(by_family)}

    def start_after(self, used: Collection[int]) -> None:
        for pool in self._pools.values():
            pool.start_after(used)

    def choose(self, asked: Collection[int], in_use: Callable[[int], bool]) -> tuple[int, ...]:
        """One of each family, those of `asked` among them, whose being in use the caller knows. Nothing is taken where
        one of them cannot be had. Raises PoolExhausted, AddressNotOurs."""
        if not self._pools:
            raise PoolExhausted("the node has no pod CIDRs")
        wanted = {is_ipv6(ip): ip for ip in asked}
        for family, ip in wanted.items():
            if family not in self._pools:
                raise AddressNotOurs(f"{format_ip(ip)} is in none of the node's pod CIDRs ({self})")
            self._pools[family].check(ip)
        return tuple(wanted.get(family) or pool.choose(in_use) for family, pool in self._pools.items())

    def choose_last(self, in_use: Callable[[int], bool]) -> tuple[int, ...]:
        """The last free one of each family. Raises PoolExhausted."""
        if not self._pools:
            raise PoolExhausted("the node has no pod CIDRs")
        return tuple(pool.choose_last(in_use) for pool in self._pools.values())

    def __str__(self) -> str:
        return ", ".join(map(str, self.cidrs)) or "none"


def _length(addresses: range) -> int:
    return addresses.stop - addresses.start
