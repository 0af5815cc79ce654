"""Rows of a map in another layout of it.

  1. Fields are matched by name, also within structs and arrays; numbers keep their value, the nearest that fits.
  2. What is in the new layout alone is zero; what was in the old one alone is dropped.
  3. What a name does not say is in `CONVERSIONS`.
Easy to get wrong: a field of a key that is matched by nothing would make several rows one, so such rows are none.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kilim.agent.bpf.layout import FAMILY_BITS, IPV4_PREFIX_LEN, TICK_SHIFT

Array = npt.NDArray[Any]


class Inconvertible(Exception):
    """No row of the new layout follows from one of the old."""


@dataclass(slots=True)
class Converting:
    """Old and new rows side by side, of a map whose values are one to a key. `unmatched`: fields of the new layout that
    the old one has too, as something else."""

    old_keys: Array
    old_values: Array
    keys: Array
    values: Array
    unmatched_keys: set[str] = field(default_factory=set)
    unmatched_values: set[str] = field(default_factory=set)
    keep: npt.NDArray[np.bool_] | None = None


def convert(name: str, old: tuple[Array, Array], layout: tuple[np.dtype[Any], np.dtype[Any]]) -> tuple[Array, Array]:
    """Keys and values of the map `name`; fewer where some are not worth it. Raises Inconvertible."""
    keys, values = (np.zeros(len(old[0]), dtype) for dtype in layout)
    rows = Converting(*old, keys, values)
    rows.unmatched_keys = _copy(rows.old_keys, rows.keys)
    rows.unmatched_values = _copy(rows.old_values, rows.values)
    for conversion in (widen_addresses, *CONVERSIONS.get(name, ())):
        conversion(rows)
    lost = rows.unmatched_keys | _only_in(rows.old_keys.dtype, rows.keys.dtype)
    if lost:
        raise Inconvertible(f"map {name}: the key's {', '.join(sorted(lost)) or 'type'} cannot be converted")
    if rows.keep is not None:
        return rows.keys[rows.keep], rows.values[rows.keep]
    return rows.keys, rows.values


def _only_in(old: np.dtype[Any], new: np.dtype[Any]) -> set[str]:
    """Fields of a key that are gone: rows that differ in these alone would be one. Padding may go."""
    return {each for each in old.names or () if each not in (new.names or ()) and not each.startswith("pad")}


def _copy(old: Array, new: Array) -> set[str]:
    """Into the zeros of `new`; the names of what is not the same kind of thing in both, empty for the whole."""
    if old.dtype.names and new.dtype.names:
        return {each for each in new.dtype.names if each in old.dtype.names and _copy(old[each], new[each])}
    if old.dtype.names or new.dtype.names or old.ndim != new.ndim:
        return {""}
    if old.ndim > 1:
        count = min(old.shape[1], new.shape[1])
        old, new = old[:, :count], new[:, :count]
    if old.dtype.kind in "iu" and new.dtype.kind in "iu":
        limits = np.iinfo(new.dtype)
        least, most = np.iinfo(old.dtype).min, np.iinfo(old.dtype).max
        new[...] = np.clip(old, max(limits.min, least), min(limits.max, most))
        return set()
    if old.dtype != new.dtype:
        return {""}
    new[...] = old
    return set()


def widen_addresses(rows: Converting) -> None:
    """What was an IPv4 address is one in the form of both families (bpf/lib/addr.h); in values 0 is none."""
    for old, new, unmatched in (
        (rows.old_keys, rows.keys, rows.unmatched_keys),
        (rows.old_values, rows.values, rows.unmatched_values),
    ):
        for name in [each for each in unmatched if each and _is_widened(old[each].dtype, new[each].dtype)]:
            words = new[name]["w"]
            words[:, 3] = old[name]
            words[:, 2] = np.where((old[name] != 0) | (new is rows.keys), 0xFFFF, 0)
            unmatched.remove(name)


def _is_widened(old: np.dtype[Any], new: np.dtype[Any]) -> bool:
    return old == np.dtype(">u4") and new.names == ("w",) and new.itemsize == 16


def _widen_prefixes(rows: Converting) -> None:
    old, new = (dict(dtype.fields or {}) for dtype in (rows.old_keys.dtype, rows.keys.dtype))
    if not {"ip", "prefix_len"} <= old.keys() & new.keys():
        return
    if _is_widened(old["ip"][0], new["ip"][0]):
        rows.keys["prefix_len"] += IPV4_PREFIX_LEN
    if "family" in new.keys() - old.keys():
        words = rows.keys["ip"]["w"]
        is_ipv4 = (words[:, 0] == 0) & (words[:, 1] == 0) & (words[:, 2] == 0xFFFF)
        rows.keys["family"] = np.where(is_ipv4, 4, 6)
        rows.keys["prefix_len"] += FAMILY_BITS


def _drop_expired(rows: Converting) -> None:
    """Expired connections are as good as none, and in a busy table they are most."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) >> TICK_SHIFT
    if "expires" in (rows.values.dtype.names or ()):
        rows.keep = rows.values["expires"] > now


CONVERSIONS: dict[str, tuple[Callable[[Converting], None], ...]] = {
    "ipcache": (_widen_prefixes,),
    "ct": (_drop_expired,),
}
