"""The names of maps in their pin directory: `ct_1f00d8a4` is the table of connections in one layout of it.

The suffix is a digest of shape (kind, sizes, flags) and of the fields of key and value. So a version whose map is laid
out otherwise has a map of its own beside that of the programs in force, and one whose map is the same takes it over.
Easy to get wrong: maps whose rows refer to one another by numbers are one layout, or rows of one would be changed under
programs that do not see the other.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kilim.agent.bpf.btf import Btf
from kilim.agent.bpf.libbpf import ObjectMap

_TOGETHER = (frozenset({"subjects", "policy"}),)
_RECORDS = {"events": "event"}  # of rings, whose type says nothing of what is in them
_SUFFIX = re.compile(r"(.+)_[0-9a-f]{8}")


def pin_names(maps: Iterable[ObjectMap], btf: Btf) -> dict[str, str]:
    """Of the maps of an object, by name, after their sizes were set."""
    layouts = {each.name: _layout(each, btf) for each in maps if not each.internal}
    names = {}
    for name in layouts:
        group = next((group for group in _TOGETHER if name in group), frozenset({name}))
        text = "\n".join(f"{each} {layouts[each]}" for each in sorted(group & layouts.keys()))
        names[name] = f"{name}_{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
    return names


def map_name(pin: str) -> str:
    """What the map is called in C. Pins without a suffix were made before layouts were part of their names."""
    found = _SUFFIX.fullmatch(pin)
    return found[1] if found else pin


def read_pins(directory: Path, name: str) -> list[Path]:
    """All layouts of that map, newest first: more than one while an upgrade is under way."""
    found = [directory / pin for pin in os.listdir(directory) if map_name(pin) == name]
    return sorted(found, key=lambda path: path.stat().st_ctime_ns, reverse=True)


def find_pin(directory: Path, name: str) -> Path:
    """The newest layout. Raises FileNotFoundError."""
    found = read_pins(directory, name)
    if not found:
        raise FileNotFoundError(f"{directory}: no map {name} is pinned")
    return found[0]


def _layout(each: ObjectMap, btf: Btf) -> str:
    rows = [btf.dtype(number) for number in each.type_ids if number]
    if each.name in _RECORDS:
        rows.append(btf.dtype(btf.struct_id(_RECORDS[each.name])))
    return " ".join([*map(str, each.shape), *map(describe, rows)])


def describe(dtype: np.dtype[Any]) -> str:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return f"{describe(base)}{list(shape)}"
    if dtype.fields is None:
        return dtype.str
    fields = [f"{name}@{dtype.fields[name][1]}:{describe(dtype.fields[name][0])}" for name in dtype.names or ()]
    return f"{dtype.itemsize}{{{', '.join(fields)}}}"
