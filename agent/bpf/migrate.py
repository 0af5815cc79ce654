"""Moving the content of maps into those of another layout, while programs go on over the old ones.

  1. `create`, `copy`  new maps are made and filled aside (NEW), then renamed into their place: what is there is whole
  2. `catch_up`        right before the hooks are taken over: what has changed since
  3. `finish`          all hooks are ours: what the old programs added until then, if it is not there; old pins go
A crash leaves old pins, whose maps the next start goes on from, and at NEW what it throws away. Easy to get wrong: what
the agent writes (WRITTEN_BY_AGENT) is copied once only, as rows that are missing later were deleted.
"""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kilim.agent.bpf import syscall
from kilim.agent.bpf.btf import Btf
from kilim.agent.bpf.convert import Inconvertible, convert
from kilim.agent.bpf.counters import possible_cpus
from kilim.agent.bpf.libbpf import ObjectFile
from kilim.agent.bpf.maps import Map, Rows
from kilim.agent.bpf.pins import map_name, read_pins

WRITTEN_BY_AGENT = frozenset({"ipcache", "endpoints", "subjects", "policy", "ipmasq", "node_addresses"})

_NEW = "new"  # beside the directory of the maps
_ARRAYS, _PER_CPU = (2, 6), (5, 6, 10)
_COPIED = (1, 2, 5, 6, 9, 10, 11)  # hashes, arrays and their per-CPU and LRU kinds, tries of prefixes; not rings
_WEIGHTS = np.random.default_rng(1).integers(1, 1 << 63, 1 << 12, np.uint64) | np.uint64(1)
_MIX = np.uint64(0xFF51AFD7ED558CCD)


@dataclass(slots=True)
class _Move:
    name: str
    old: Path
    new: Path
    copied: "_Copied | None" = None  # None: by a start before this one


class _Copied(NamedTuple):
    """Digests of the old rows, and of their keys alone."""

    rows: npt.NDArray[np.uint64]
    keys: npt.NDArray[np.uint64]


class Migration:
    """Of one pin directory, from a load to the end of the take-over. `moved`: rows by map; `anew`: empty ones."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._new = directory.parent / _NEW
        self._wanted: dict[str, str] = {}
        self._moves: list[_Move] = []
        self.moved: dict[str, int] = {}
        self.anew: list[str] = []
        self._new.mkdir(exist_ok=True, mode=0o700)
        for pin in os.listdir(self._new):
            (self._new / pin).unlink()

    def create(self, opened: ObjectFile, pins: Mapping[str, str]) -> None:
        """The maps of an object that there are only in another layout. `pins`: names by map. The object cannot be used
        for anything else then."""
        self._wanted |= pins
        missing = {}
        for name, pin in pins.items():
            is_there = (self._directory / pin).exists() or (self._new / pin).exists()
            if not is_there and read_pins(self._directory, name):
                missing[name] = self._new / pin
        if missing:
            opened.create_maps(missing)

    def copy(self) -> None:
        """All into the new maps, which are in their place then."""
        for pin in sorted(os.listdir(self._new)):
            name = map_name(pin)
            old, new = read_pins(self._directory, name)[0], self._new / pin
            move = _Move(name, old, self._directory / pin)
            try:
                count, move.copied = _copy(name, old, new, None)
            except Inconvertible:
                self.anew.append(name)
            else:
                self.moved[name] = count
            new.rename(move.new)
            self._moves.append(move)
        self._new.rmdir()
        fresh = {move.name for move in self._moves}
        for name, pin in self._wanted.items():
            if name not in fresh and (self._directory / pin).exists():
                old_pins = [path for path in read_pins(self._directory, name) if path.name != pin]
                self._moves += [_Move(name, old, self._directory / pin) for old in old_pins]

    def catch_up(self) -> None:
        """Before the first hook is taken over. Blocking, for as long as reading what is copied takes."""
        for move in self._copied_by_us():
            if move.copied is None:
                _add_missing(move)  # hooks may be ours already
            else:
                _, move.copied = _copy(move.name, move.old, move.new, move.copied)

    def finish(self) -> None:
        """After the last hook was taken over."""
        for move in self._copied_by_us():
            _add_missing(move)
        self._moves = []
        for pin in sorted(os.listdir(self._directory)):
            if self._wanted.get(map_name(pin)) != pin:
                (self._directory / pin).unlink()

    def _copied_by_us(self) -> list[_Move]:
        return [move for move in self._moves if move.name not in WRITTEN_BY_AGENT | set(self.anew)]


@dataclass(frozen=True, slots=True)
class _Content:
    """An open map with the types that the kernel knows of it."""

    table: Map
    kind: int
    key: np.dtype[Any]
    value: np.dtype[Any]  # of one CPU

    @property
    def cpus(self) -> int:
        return possible_cpus() if self.kind in _PER_CPU else 0

    def close(self) -> None:
        os.close(self.table.fd)

    def read(self) -> tuple[Rows, Rows]:
        return self.table.read()

    def plain(self, values: Rows) -> Rows:
        """Of all CPUs one after the other, without what the kernel puts between them."""
        if not self.cpus:
            return values
        step = values.dtype.itemsize // self.cpus
        octets = values.view(np.uint8).reshape(len(values) * self.cpus, step)
        return np.ascontiguousarray(octets[:, : self.value.itemsize]).view(self.value)[:, 0]

    def spread(self, values: Rows) -> Rows:
        """The other way round."""
        if not self.cpus:
            return np.ascontiguousarray(values)
        step = self.table.value_dtype.itemsize // self.cpus
        octets = np.zeros((len(values), step), np.uint8)
        octets[:, : self.value.itemsize] = (
            np.ascontiguousarray(values).view(np.uint8).reshape(len(values), self.value.itemsize)
        )
        return octets.reshape(len(values) // self.cpus, step * self.cpus).view(self.table.value_dtype)[:, 0]


def _open(path: Path) -> _Content:
    """Raises Inconvertible where the kernel does not know what is in it."""
    fd = syscall.open_pinned(path)
    info = syscall.map_info(fd)
    if info.type not in _COPIED or not info.btf_id or not info.key_type_id:
        os.close(fd)
        raise Inconvertible(f"{path.name}: the kernel does not know its types")
    btf = Btf(syscall.read_btf(info.btf_id))
    key, value = (_rows(btf.dtype(number)) for number in (info.key_type_id, info.value_type_id))
    whole = value
    if info.type in _PER_CPU:
        whole = np.dtype(f"V{-(-value.itemsize // 8) * 8 * possible_cpus()}")
    return _Content(Map(fd, path.name, key, whole, info.max_entries), info.type, key, value)


def _rows(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """An array as a struct of it, as numpy would make a dimension of it."""
    return np.dtype([("elements", dtype)]) if dtype.subdtype else dtype


def _copy(name: str, old_path: Path, new_path: Path, copied: _Copied | None) -> tuple[int, _Copied]:
    """Rows that were not among those copied before; how many, and digests of all. Raises Inconvertible, OSError."""
    old, new = _open(old_path), None
    try:
        new = _open(new_path)
        keys, values = old.read()
        digests = _Copied(_digests(keys, values), _digests(keys))
        if copied is not None:
            changed = ~np.isin(digests.rows, copied.rows, assume_unique=True)
            keys, values = keys[changed], values[changed]
        return _write(new, *_converted(name, old, new, keys, values)), digests
    finally:
        for each in filter(None, (old, new)):
            each.close()


def _add_missing(move: _Move) -> None:
    old, new = _open(move.old), _open(move.new)
    try:
        keys, values = old.read()
        if move.copied is not None:
            missing = ~np.isin(_digests(keys), move.copied.keys, assume_unique=True)
            keys, values = keys[missing], values[missing]
        keys, values = _converted(move.name, old, new, keys, values)
        if move.copied is None:
            missing = ~np.isin(_digests(keys), _digests(new.read()[0]), assume_unique=True)
            keys, values = keys[missing], values[missing]
        syscall.add_elems(new.table.fd, np.ascontiguousarray(keys), np.ascontiguousarray(values))
    finally:
        old.close()
        new.close()


def _converted(name: str, old: _Content, new: _Content, keys: Rows, values: Rows) -> tuple[Rows, Rows]:
    if bool(old.cpus) != bool(new.cpus):
        raise Inconvertible(f"map {name}: values of each CPU would become one")
    if not old.cpus:
        keys, values = convert(name, (keys, values), (new.key, new.value))
    else:
        numbers = np.repeat(np.arange(len(keys)), old.cpus)
        keys, values = convert(name, (keys[numbers], old.plain(values)), (new.key, new.value))
        keys, values = keys[:: old.cpus], new.spread(values)
    if new.kind in _ARRAYS:
        within = keys.view(np.uint32) < new.table.max_entries
        keys, values = keys[within], values[within]
    return keys, values


def _write(new: _Content, keys: Rows, values: Rows) -> int:
    """How many there was room for."""
    keys, values = np.ascontiguousarray(keys), np.ascontiguousarray(values)
    done = 0
    while done < len(keys):
        part = slice(done, done + 4096)
        result = syscall.batch(syscall.MAP_UPDATE_BATCH, new.table.fd, keys[part], values[part])
        done += result.done
        if result.error in (errno.ENOSPC, errno.E2BIG):
            break
        if result.error:
            raise OSError(result.error, f"{os.strerror(result.error)}: map {new.table.name}")
    return done


def _digests(*parts: Rows) -> npt.NDArray[np.uint64]:
    """A number for each row; that two rows have the same one happens once in 10^7 tables of a million rows."""
    total = np.zeros(len(parts[0]), np.uint64)
    position = 0
    for part in parts:
        width = -(-part.dtype.itemsize // 8)
        octets = np.zeros((len(part), width * 8), np.uint8)
        octets[:, : part.dtype.itemsize] = (
            np.ascontiguousarray(part).view(np.uint8).reshape(len(part), part.dtype.itemsize)
        )
        words = octets.view(np.uint64)
        words ^= words >> np.uint64(33)
        words *= _MIX
        words ^= words >> np.uint64(29)
        total += words @ _WEIGHTS[position : position + width]
        position += width
    return total
