"""Addresses of both families as ints, as text, and as the kernel holds them."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilim.model.address import (
    IPV6,
    Cidr,
    format_ip,
    from_mapped,
    from_mapped_or_zeros,
    host_length,
    is_ipv6,
    mapped,
    mapped_or_zeros,
    parse_cidr,
    parse_ip,
    parse_ipv4,
    without_host_bits,
)

ADDRESSES = st.one_of(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 128) - 1).map(lambda bits: IPV6 | bits))


def as_library(ip: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.IPv6Address(ip - IPV6) if is_ipv6(ip) else ipaddress.IPv4Address(ip)


@given(ADDRESSES)
def test_text_and_back(ip: int) -> None:
    library = as_library(ip)
    assert format_ip(ip) == str(library)
    if not (library.version == 6 and library.ipv4_mapped):
        assert parse_ip(str(library)) == ip
        assert parse_ip(library.exploded) == ip
        assert from_mapped(mapped(ip)) == ip
    assert host_length(ip) == library.max_prefixlen


@given(ADDRESSES, ADDRESSES, st.data())
def test_prefixes_as_the_library_has_them(ip: int, other: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, host_length(ip)))
    network = ipaddress.ip_network((int(as_library(ip)) if not is_ipv6(ip) else ip - IPV6, length), strict=False)
    cidr = Cidr(without_host_bits(ip, length), length)
    if network.version == as_library(ip).version:  # the library takes a small int for IPv4
        assert str(cidr) == str(network)
        assert cidr.contains_ip(other) == (as_library(other) in network)
    assert cidr.contains_ip(ip)
    assert len(list(cidr.covering())) == length + 1
    assert all(each.contains(cidr) for each in cidr.covering())


def test_families_never_meet() -> None:
    assert not parse_cidr("::/0").contains_ip(parse_ip("10.0.0.1"))
    assert not parse_cidr("0.0.0.0/0").contains_ip(parse_ip("::a00:1"))
    assert not parse_cidr("0.0.0.0/0").contains(parse_cidr("::/0"))
    assert parse_cidr("0.0.0.0/0") != parse_cidr("::/0")
    assert parse_ip("255.255.255.255") < parse_ip("::")


def test_as_the_kernel_holds_them() -> None:
    assert mapped(parse_ip("10.0.0.1")) == ipaddress.IPv6Address("::ffff:10.0.0.1").packed
    assert mapped(0) == ipaddress.IPv6Address("::ffff:0.0.0.0").packed
    assert mapped(parse_ip("2001:db8::1")) == ipaddress.IPv6Address("2001:db8::1").packed
    assert mapped_or_zeros(0) == bytes(16)
    assert from_mapped_or_zeros(bytes(16)) == 0
    assert from_mapped_or_zeros(mapped_or_zeros(parse_ip("10.0.0.1"))) == parse_ip("10.0.0.1")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("10.0.0", "is not an IPv4 address"),
        ("10.0.0.01", "leading zero"),
        ("2001:db8::g", "is not an IPv6 address"),
        ("fe80::1%eth0", "has a zone"),
        ("::ffff:10.0.0.1", "write 10.0.0.1"),
        ("", "is not an IPv4 address"),
    ],
)
def test_what_is_no_address(text: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        parse_ip(text)


@pytest.mark.parametrize("text", ["10.0.0.0", "10.0.0.0/33", "2001:db8::/129", "2001:db8::", "::/-1", "10.0.0.0/ 8"])
def test_what_is_no_prefix(text: str) -> None:
    with pytest.raises(ValueError, match="is not an IPv"):
        parse_cidr(text)


def test_one_family_alone() -> None:
    with pytest.raises(ValueError, match="is not an IPv4 address"):
        parse_ipv4("2001:db8::1")
