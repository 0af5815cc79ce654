"""Whole arrays of addresses, as the kernel's maps hold them (`mapped`, 16 bytes) and as ints, and back."""

from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt

from kilim.agent.bpf.maps import Rows
from kilim.model.address import IPV6, from_mapped, mapped

_IPV4_MARK = 0xFFFF  # above the 4 bytes of an IPv4 address, below 8 of zeros

ADDRESS = np.dtype("V16")


def mapped_rows(ips: Collection[int]) -> Rows:
    """By whole arrays where all are IPv4: ten times as fast."""
    if all(ip < IPV6 for ip in ips):
        words = np.zeros((len(ips), 4), ">u4")
        words[:, 2] = _IPV4_MARK
        words[:, 3] = np.fromiter(ips, np.uint32, len(ips))
        return words.view(ADDRESS).reshape(-1)
    return _rows(mapped(ip) for ip in ips)


def mapped_or_zeros_rows(ips: Collection[int]) -> Rows:
    """0: all zeros."""
    addresses = mapped_rows(ips)
    if 0 in ips:
        addresses[np.fromiter((not ip for ip in ips), np.bool_, len(ips))] = np.zeros((), ADDRESS)
    return addresses


def ips_of(addresses: Rows) -> list[int]:
    words, is_ipv4 = _words(addresses)
    ips: list[int] = words[:, 3].tolist()
    for place in np.flatnonzero(~is_ipv4).tolist():
        ips[place] = from_mapped(addresses[place].tobytes())
    return ips


def ips_or_zero_of(addresses: Rows) -> list[int]:
    """All zeros: 0."""
    return [0 if ip == IPV6 else ip for ip in ips_of(addresses)]


def are_ipv4(addresses: Rows) -> npt.NDArray[np.bool_]:
    return _words(addresses)[1]


def _words(addresses: Rows) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.bool_]]:
    words = np.ascontiguousarray(addresses).view(">u4").reshape(-1, 4)
    is_ipv4: npt.NDArray[np.bool_] = (words[:, 0] == 0) & (words[:, 1] == 0) & (words[:, 2] == _IPV4_MARK)
    return words, is_ipv4


def _rows(values: Iterable[bytes]) -> Rows:
    return np.frombuffer(bytearray(b"".join(values)), ADDRESS)
