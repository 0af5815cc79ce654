"""Addresses: never one that nobody may have, never one in use, a released one not at once again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilim.agent.core.ipam import AddressNotOurs, AddressPool, PoolExhausted, usable_range
from kilim.model.address import format_ip, parse_cidr, parse_ip

FREE: frozenset[int] = frozenset()


def pool(*cidrs: str) -> AddressPool:
    return AddressPool([parse_cidr(cidr) for cidr in cidrs])


def test_first_addresses_follow_the_gateway() -> None:
    addresses = pool("10.61.1.0/24")
    chosen = [addresses.choose(FREE.__contains__) for _ in range(3)]
    assert [format_ip(ip) for ip in chosen] == ["10.61.1.2", "10.61.1.3", "10.61.1.4"]


@given(st.integers(24, 32))
def test_network_gateway_and_broadcast_are_never_given_out(prefix_len: int) -> None:
    cidr = parse_cidr(f"10.9.8.0/{prefix_len}")
    size = 1 << (32 - prefix_len)
    usable = usable_range(cidr)
    assert cidr.ip not in usable and cidr.ip + 1 not in usable and cidr.ip + size - 1 not in usable
    assert len(usable) == max(0, size - 3)


def test_a_released_address_comes_again_only_after_all_others() -> None:
    addresses = pool("10.61.1.0/29")  # .2 to .6
    used: set[int] = set()
    first = addresses.choose(used.__contains__)
    later = [addresses.choose(used.__contains__) for _ in range(4)]
    assert first not in later
    assert addresses.choose(used.__contains__) == first


def test_several_cidrs_are_one_pool_and_it_can_be_exhausted() -> None:
    addresses = pool("10.61.1.0/30", "10.62.0.0/30")
    used: set[int] = set()
    for _ in range(2):
        used.add(addresses.choose(used.__contains__))
    assert {format_ip(ip) for ip in used} == {"10.61.1.2", "10.62.0.2"}
    with pytest.raises(PoolExhausted, match="all 2 addresses"):
        addresses.choose(used.__contains__)


def test_after_a_restart_the_search_goes_on_behind_the_highest_in_use() -> None:
    addresses = pool("10.61.1.0/24")
    used = {parse_ip("10.61.1.7"), parse_ip("10.61.1.3"), parse_ip("192.0.2.1")}
    addresses.start_after(used)
    assert format_ip(addresses.choose(used.__contains__)) == "10.61.1.8"


@pytest.mark.parametrize("text", ["10.61.1.0", "10.61.1.1", "10.61.1.255", "10.61.2.5"])
def test_an_address_that_is_not_ours_is_refused(text: str) -> None:
    with pytest.raises(AddressNotOurs, match=text):
        pool("10.61.1.0/24").check(parse_ip(text))


@given(st.lists(st.integers(0, 40), max_size=200))
def test_no_two_holders_ever_share_an_address(moves: list[int]) -> None:
    addresses = pool("10.61.1.0/27")
    held: list[int] = []
    for move in moves:
        if move < 15 and held:
            held.pop(move % len(held))
        elif len(held) < 29:
            ip = addresses.choose(set(held).__contains__)
            assert ip not in held
            held.append(ip)
