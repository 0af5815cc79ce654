"""IP addresses and prefixes as ints; text only at the edges.

An IPv4 address is its 32 bits. An IPv6 address is its 128 bits with `IPV6` set above them, so the two never meet: 0 is
no address, `IPV6` is `::`, and in order IPv4 comes first. Easy to get wrong: shifting or masking by hand; use these.
"""

import ipaddress
from collections.abc import Iterator
from typing import NamedTuple

IPV6 = 1 << 128

_IPV4_MAPPED = 0xFFFF << 32  # ::ffff:0:0/96 (RFC 4291, 2.5.5.2)


class Cidr(NamedTuple):
    """A prefix of one family. `ip` has no bits set below `prefix_len`, 0..32 or 0..128 (use `parse_cidr`, which
    normalises)."""

    ip: int
    prefix_len: int

    def contains(self, other: "Cidr") -> bool:
        """Whether every address of `other` is in this prefix."""
        return self.prefix_len <= other.prefix_len and self.contains_ip(other.ip)

    def contains_ip(self, ip: int) -> bool:
        return without_host_bits(ip, self.prefix_len) == self.ip

    def covering(self) -> "Iterator[Cidr]":
        """Every prefix that contains this one, itself among them."""
        for length in range(self.prefix_len + 1):
            yield Cidr(without_host_bits(self.ip, length), length)

    def __str__(self) -> str:
        return f"{format_ip(self.ip)}/{self.prefix_len}"


def is_ipv6(ip: int) -> bool:
    return ip >= IPV6


def host_length(ip: int) -> int:
    """The length of the prefix that is this address alone: 32 or 128."""
    return 128 if ip >= IPV6 else 32


def without_host_bits(ip: int, prefix_len: int) -> int:
    """The prefix of this length that the address is in, of its family. A length beyond the family's is the whole."""
    shift = max(host_length(ip) - prefix_len, 0)
    return ip >> shift << shift


def parse_ip(text: str) -> int:
    """Of either family. Raises ValueError with the rule that is broken."""
    return parse_ipv6(text) if ":" in text else parse_ipv4(text)


def parse_ipv4(text: str) -> int:
    """Dotted quad to int. Raises ValueError with the rule that is broken."""
    parts = text.split(".")
    if len(parts) != 4 or not all(p.isascii() and p.isdigit() and len(p) <= 3 and int(p) <= 255 for p in parts):
        raise ValueError(f"{text!r} is not an IPv4 address")
    if any(len(p) > 1 and p[0] == "0" for p in parts):
        raise ValueError(f"{text!r} has a leading zero, which is ambiguous")
    a, b, c, d = (int(p) for p in parts)
    return a << 24 | b << 16 | c << 8 | d


def parse_ipv6(text: str) -> int:
    """Raises ValueError with the rule that is broken."""
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv6 address") from None
    if address.scope_id is not None:
        raise ValueError(f"{text!r} has a zone, which means something on one node only")
    if address.ipv4_mapped is not None:
        raise ValueError(f"{text!r} is an IPv4 address in IPv6's form; write {address.ipv4_mapped}")
    return IPV6 | int(address)


def format_ip(ip: int) -> str:
    """Dotted quad, or IPv6 as RFC 5952 has it."""
    if ip >= IPV6:
        return str(ipaddress.IPv6Address(ip - IPV6))
    return f"{ip >> 24}.{ip >> 16 & 255}.{ip >> 8 & 255}.{ip & 255}"


def parse_cidr(text: str) -> Cidr:
    """`10.0.0.0/8`, `2001:db8::/32`; host bits are cleared, as Kubernetes and the kernel do. Raises ValueError."""
    address, slash, length = text.partition("/")
    longest, family = (128, "IPv6") if ":" in address else (32, "IPv4")
    if not slash or not (length.isascii() and length.isdigit() and len(length) <= 3 and int(length) <= longest):
        example = "2001:db8::/32" if longest == 128 else "10.0.0.0/8"
        raise ValueError(f"{text!r} is not an {family} CIDR such as {example}")
    prefix_len = int(length)
    return Cidr(without_host_bits(parse_ip(address), prefix_len), prefix_len)


def mapped(ip: int) -> bytes:
    """16 bytes in network order, as the kernel's maps hold addresses: IPv4 as ::ffff:a.b.c.d."""
    return (ip - IPV6 if ip >= IPV6 else _IPV4_MAPPED | ip).to_bytes(16, "big")


def from_mapped(data: bytes) -> int:
    """The other way round."""
    value = int.from_bytes(data, "big")
    return value & 0xFFFFFFFF if value >> 32 == _IPV4_MAPPED >> 32 else IPV6 | value


def mapped_or_zeros(ip: int) -> bytes:
    """`mapped` where 0 is no address."""
    return mapped(ip) if ip else bytes(16)


def from_mapped_or_zeros(data: bytes) -> int:
    """The other way round."""
    return from_mapped(data) if any(data) else 0
