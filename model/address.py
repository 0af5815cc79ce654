"""IPv4 addresses and prefixes as ints in host byte order; text only at the edges."""

from collections.abc import Iterator
from typing import NamedTuple


class Cidr(NamedTuple):
    """A prefix. `ip` has no bits set below `prefix_len` (use `parse_cidr`, which normalises)."""

    ip: int
    prefix_len: int

    def contains(self, other: "Cidr") -> bool:
        """Whether every address of `other` is in this prefix."""
        return self.prefix_len <= other.prefix_len and (other.ip & prefix_mask(self.prefix_len)) == self.ip

    def contains_ip(self, ip: int) -> bool:
        return (ip & prefix_mask(self.prefix_len)) == self.ip

    def covering(self) -> "Iterator[Cidr]":
        """Every prefix that contains this one, itself among them."""
        for length in range(self.prefix_len + 1):
            yield Cidr(self.ip & prefix_mask(length), length)

    def __str__(self) -> str:
        return f"{format_ip(self.ip)}/{self.prefix_len}"


def prefix_mask(prefix_len: int) -> int:
    return (0xFFFFFFFF << (32 - prefix_len)) & 0xFFFFFFFF


def parse_ip(text: str) -> int:
    """Dotted quad to int. Raises ValueError with the rule that is broken."""
    parts = text.split(".")
    if len(parts) != 4 or not all(p.isascii() and p.isdigit() and len(p) <= 3 and int(p) <= 255 for p in parts):
        raise ValueError(f"{text!r} is not an IPv4 address")
    if any(len(p) > 1 and p[0] == "0" for p in parts):
        raise ValueError(f"{text!r} has a leading zero, which is ambiguous")
    a, b, c, d = (int(p) for p in parts)
    return a << 24 | b << 16 | c << 8 | d


def format_ip(ip: int) -> str:
    return f"{ip >> 24}.{ip >> 16 & 255}.{ip >> 8 & 255}.{ip & 255}"


def parse_cidr(text: str) -> Cidr:
    """`10.0.0.0/8`; host bits are cleared, as Kubernetes and the kernel do. Raises ValueError."""
    address, slash, length = text.partition("/")
    if not slash or not (length.isascii() and length.isdigit() and len(length) <= 2 and int(length) <= 32):
        raise ValueError(f"{text!r} is not an IPv4 CIDR such as 10.0.0.0/8")
    prefix_len = int(length)
    return Cidr(parse_ip(address) & prefix_mask(prefix_len), prefix_len)
