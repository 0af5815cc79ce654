"""Addresses: never one that nobody may have, never one in use, a released one not at once again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilim.agent.core.ipam import AddressNotOurs, AddressPool, AddressPools, PoolExhausted, usable_range
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


@given(st.integers(64, 128))
def test_network_and_gateway_of_ipv6_are_never_given_out(prefix_len: int) -> None:
    cidr = parse_cidr(f"fd00:10:61:1::/{prefix_len}")
    size, usable = 1 << (128 - prefix_len), usable_range(cidr)
    assert cidr.ip not in usable and cidr.ip + 1 not in usable
    assert usable.stop - usable.start == max(0, size - 2)
    assert size < 3 or cidr.ip + size - 1 in usable  # nothing is broadcast


def test_a_large_pool_goes_round_at_its_end() -> None:
    cidr = parse_cidr("fd00:10:61:1::/64")
    addresses, last = pool(str(cidr)), cidr.ip + (1 << 64) - 1
    addresses.start_after({last - 1})
    used = {cidr.ip + 2}
    chosen = [addresses.choose(used.__contains__) for _ in range(2)]
    assert [format_ip(ip) for ip in chosen] == ["fd00:10:61:1:ffff:ffff:ffff:ffff", "fd00:10:61:1::3"]


@pytest.mark.parametrize("text", ["fd00:10:61:1::", "fd00:10:61:1::1", "fd00:10:61:2::5"])
def test_an_ipv6_address_that_is_not_ours_is_refused(text: str) -> None:
    with pytest.raises(AddressNotOurs, match=text):
        pool("fd00:10:61:1::/64").check(parse_ip(text))


def pools(*cidrs: str) -> AddressPools:
    return AddressPools([parse_cidr(cidr) for cidr in cidrs])


def chosen(addresses: AddressPools, *asked: str, used: frozenset[int] = FREE) -> list[str]:
    return [format_ip(ip) for ip in addresses.choose([parse_ip(ip) for ip in asked], used.__contains__)]


def test_a_pod_gets_one_address_of_each_family_that_the_node_has() -> None:
    assert chosen(pools("fd00:1::/64", "10.61.1.0/24", "fd00:2::/64")) == ["10.61.1.2", "fd00:1::2"]
    assert chosen(pools("fd00:1::/64")) == ["fd00:1::2"]
    assert chosen(pools("10.61.1.0/24", "10.62.1.0/24")) == ["10.61.1.2"]
    with pytest.raises(PoolExhausted, match="no pod CIDRs"):
        chosen(pools())


def test_what_is_asked_for_is_given_and_the_other_family_chosen() -> None:
    addresses = pools("10.61.1.0/24", "fd00:1::/64")
    assert chosen(addresses, "fd00:1::9") == ["10.61.1.2", "fd00:1::9"]
    assert chosen(addresses, "10.61.1.9") == ["10.61.1.9", "fd00:1::2"]
    assert chosen(addresses, "fd00:1::a", "10.61.1.8") == ["10.61.1.8", "fd00:1::a"]


@pytest.mark.parametrize("asked", ["fd00:1::1", "fd00:9::5"])
def test_one_of_two_addresses_that_cannot_be_had_takes_the_other_with_it(asked: str) -> None:
    with pytest.raises(AddressNotOurs, match=asked):
        chosen(pools("10.61.1.0/24", "fd00:1::/64"), "10.61.1.9", asked)
    with pytest.raises(AddressNotOurs, match=asked):
        chosen(pools("10.61.1.0/24"), asked)
    with pytest.raises(PoolExhausted, match="all 1 addresses"):
        chosen(pools("10.61.1.0/30", "fd00:1::/64"), used=frozenset({parse_ip("10.61.1.2")}))


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


def test_the_last_free_address_of_each_family_counts_from_the_end() -> None:
    pools = AddressPools([parse_cidr("10.0.0.0/29"), parse_cidr("10.1.0.0/30"), parse_cidr("fd00::/64")])
    used: set[int] = set()
    found = [pools.choose_last(used.__contains__)]
    used |= set(found[0])
    found.append(pools.choose_last(used.__contains__))
    assert [tuple(map(format_ip, each)) for each in found] == [
        ("10.1.0.2", "fd00::ffff:ffff:ffff:ffff"),
        ("10.0.0.6", "fd00::ffff:ffff:ffff:fffe"),
    ]
    with pytest.raises(PoolExhausted):
        AddressPools(()).choose_last(used.__contains__)
