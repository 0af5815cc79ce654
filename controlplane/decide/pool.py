"""The cluster pools, one for each family: where pod CIDRs of nodes that bring none come from. PURE."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from kilim.model.address import Cidr, host_length, is_ipv6, parse_cidr
from kilim.model.settings import (
    CLUSTER_POOL_IPV4_CIDR,
    CLUSTER_POOL_IPV4_MASK_SIZE,
    CLUSTER_POOL_IPV6_CIDR,
    CLUSTER_POOL_IPV6_MASK_SIZE,
)


@dataclass(frozen=True, slots=True)
class Family:
    """`least`, `most`: how long the prefix of a node's pods may be."""

    name: str
    least: int
    most: int


IPV4 = Family("IPv4", 8, 30)
IPV6 = Family("IPv6", 32, 126)


# This host, itself, one link, many at once; ::/80 has IPv4 addresses in IPv6's form.
_NOT_OF_PODS = tuple(
    map(parse_cidr, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/80", "fe80::/10", "ff00::/8"))
)


class PoolSettings(NamedTuple):
    """By which names a pool is set."""

    cidr: str
    mask_size: str


POOL_SETTINGS = {
    IPV4: PoolSettings(CLUSTER_POOL_IPV4_CIDR, CLUSTER_POOL_IPV4_MASK_SIZE),
    IPV6: PoolSettings(CLUSTER_POOL_IPV6_CIDR, CLUSTER_POOL_IPV6_MASK_SIZE),
}


@dataclass(frozen=True, slots=True)
class ClusterPool:
    """A node gets a part of `cidr` that is `mask_size` long."""

    cidr: str
    mask_size: int


DEFAULT_IPV4 = ClusterPool("10.244.0.0/16", 24)
DEFAULT_IPV6 = ClusterPool("fd00:10:244::/48", 64)


def family_of(ip: int) -> Family:
    return IPV6 if is_ipv6(ip) else IPV4


def check_pool(family: Family, pool: ClusterPool) -> None:
    """Raises ValueError with the name of the setting and the rule."""
    names = POOL_SETTINGS[family]
    try:
        whole = parse_cidr(pool.cidr)
    except ValueError as error:
        raise ValueError(f"{names.cidr}: {error}") from None
    if family_of(whole.ip) is not family:
        raise ValueError(f"{names.cidr}: {pool.cidr!r} is not an {family.name} CIDR")
    if not family.least <= pool.mask_size <= family.most:
        raise ValueError(f"{names.mask_size}: {pool.mask_size} must be from {family.least} to {family.most}")
    if not is_for_pods(whole):
        raise ValueError(f"{names.cidr}: {pool.cidr} has addresses that no pod can have")
    if whole.prefix_len > pool.mask_size:
        raise ValueError(
            f"{names.cidr}: {pool.cidr} must hold at least one /{pool.mask_size}, the pod CIDR of one node"
        )


def is_for_pods(cidr: Cidr) -> bool:
    """Whether each of its addresses may be sent to."""
    return not any(each.contains(cidr) or cidr.contains(each) for each in _NOT_OF_PODS)


def next_free(pool: ClusterPool, taken: Iterable[Cidr]) -> Cidr | None:
    """Its first part that overlaps none of `taken`, which may be of any family."""
    whole = parse_cidr(pool.cidr)
    size = _size(Cidr(whole.ip, pool.mask_size))
    candidate = whole.ip
    for each in sorted(each for each in taken if is_ipv6(each.ip) == is_ipv6(whole.ip)):
        if each.ip >= candidate + size:
            break
        end = each.ip + _size(each)
        if end > candidate:
            candidate = -(-end // size) * size
    return Cidr(candidate, pool.mask_size) if candidate + size <= whole.ip + _size(whole) else None


def _size(cidr: Cidr) -> int:
    return 1 << (host_length(cidr.ip) - cidr.prefix_len)
