"""Rows of the connection table `ct` and of `snat` that are of no use any more, found by whole arrays.

Easy to get wrong: a map is read while programs write it, so what looked useless is looked up again right before it
goes, a few at a time; and a mapping of masquerade is written after its connection, so mappings are read first.
"""

import time
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kilim.agent.bpf.addresses import ADDRESS, ips_of, mapped_rows
from kilim.agent.bpf.layout import CT_KEY, TICK_SHIFT
from kilim.agent.bpf.maps import Maps, Rows
from kilim.model.address import Cidr, host_length, mapped
from kilim.model.tables import INGRESS

_AT_ONCE = 1024
_CLOCK_MONOTONIC_COARSE = 6  # what the programs go by; Python has no name for it (linux/time.h)


class Collected(NamedTuple):
    """Rows of `ct` that are left, and of both maps that went."""

    alive: int
    deleted: int
    mappings: int


def now_ticks() -> int:
    """The clock of `expires`."""
    return time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE) >> TICK_SHIFT


def collect_expired(maps: Maps) -> Collected:
    """Expired connections go, and mappings without a connection. Blocking: about a second for a million rows."""
    mappings, ends = maps["snat"].read()
    keys, entries = maps["ct"].read()
    expired = keys[entries["expires"] <= now_ticks()]
    deleted = sum(_delete_expired(maps, expired[part]) for part in _parts(len(expired)))
    unused = sum(_delete_unused(maps, mappings[part], ends[part]) for part in _parts(len(mappings)))
    return Collected(len(keys) - deleted, deleted, unused)


def remove_connections(maps: Maps, ips: Collection[int] | None = None, *, with_mappings: bool = False) -> int:
    """Those with one of these addresses at either end, or all; how many there were. Without its mapping, if that is to
    go too, a packet from outside is the node's, which resets the connection."""
    wanted = None if ips is None else _octets(mapped_rows(ips))
    if with_mappings:
        mappings, ends = maps["snat"].read()
        maps["snat"].delete(mappings[_between(connection_keys(mappings, ends), wanted)])
    keys, _ = maps["ct"].read()
    return maps["ct"].delete(keys[_between(keys, wanted)])


def addresses_of(maps: Maps, cidrs: Iterable[Cidr]) -> set[int]:
    """Of both ends of all connections, those in one of `cidrs`: the others may be as many as the connections."""
    keys, _ = maps["ct"].read()
    ends = np.concatenate([_octets(keys["ip_lo"]), _octets(keys["ip_hi"])])
    found = [np.unique(ends[_are_in(ends, cidr)]) for cidr in cidrs]
    return {ip for each in found for ip in ips_of(each.view(ADDRESS))}


def connection_keys(mappings: Rows, ends: Rows) -> Rows:
    """The keys in `ct` of the connections of rows of `snat`, whose ends never have one address."""
    inward = mappings["direction"] == INGRESS
    pod = np.where(inward, ends["ip"], mappings["src"])
    pod_port = np.where(inward, ends["port"], mappings["src_port"])
    peer = np.where(inward, mappings["src"], mappings["dst"])
    peer_port = np.where(inward, mappings["src_port"], mappings["dst_port"])
    pod_is_lo = _less(pod, peer)
    keys = np.zeros(len(mappings), CT_KEY)
    keys["ip_lo"], keys["ip_hi"] = np.where(pod_is_lo, pod, peer), np.where(pod_is_lo, peer, pod)
    keys["port_lo"] = np.where(pod_is_lo, pod_port, peer_port)
    keys["port_hi"] = np.where(pod_is_lo, peer_port, pod_port)
    keys["protocol"] = mappings["protocol"]
    return keys


def _delete_expired(maps: Maps, keys: Rows) -> int:
    keys, entries = maps["ct"].look_up(keys)
    return maps["ct"].delete(keys[entries["expires"] <= now_ticks()])


def _delete_unused(maps: Maps, mappings: Rows, ends: Rows) -> int:
    keys = connection_keys(mappings, ends)
    held, _ = maps["ct"].look_up(keys)
    return maps["snat"].delete(mappings[~np.isin(_octets(keys), _octets(held))])


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, start + _AT_ONCE) for start in range(0, count, _AT_ONCE))


def _between(keys: Rows, wanted: npt.NDArray[np.bytes_] | None) -> npt.NDArray[np.bool_]:
    if wanted is None:
        return np.ones(len(keys), np.bool_)
    return np.isin(_octets(keys["ip_lo"]), wanted) | np.isin(_octets(keys["ip_hi"]), wanted)


def _are_in(addresses: npt.NDArray[np.bytes_], cidr: Cidr) -> npt.NDArray[np.bool_]:
    octets = addresses.view(np.uint8).reshape(-1, ADDRESS.itemsize)
    prefix = np.frombuffer(mapped(cidr.ip), np.uint8)
    whole, rest = divmod(cidr.prefix_len + ADDRESS.itemsize * 8 - host_length(cidr.ip), 8)
    inside: npt.NDArray[np.bool_] = (octets[:, :whole] == prefix[:whole]).all(axis=1)
    if rest:
        inside &= octets[:, whole] >> (8 - rest) == prefix[whole] >> (8 - rest)
    return inside


def _less(one: Rows, other: Rows) -> npt.NDArray[np.bool_]:
    """As addr_less of bpf/lib/addr.h: by the first word, in memory, in which they differ."""
    ours, theirs = (np.ascontiguousarray(each).view("=u4").reshape(-1, 4) for each in (one, other))
    place = np.argmax(ours != theirs, axis=1)[:, np.newaxis]
    less = np.take_along_axis(ours, place, 1) < np.take_along_axis(theirs, place, 1)
    return less[:, 0]


def _octets(rows: Rows) -> npt.NDArray[np.bytes_]:
    """Comparable as wholes: trailing zeros do not count, of none."""
    return np.ascontiguousarray(rows).view(f"S{rows.dtype.itemsize}").reshape(-1)
