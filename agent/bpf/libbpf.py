"""libbpf through ctypes, as far as loading an object with settings and pinned maps goes."""

import ctypes
import ctypes.util
import errno
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kilim.agent.bpf.btf import Btf

_LOG_LEVEL_FAILURE = 1
_LOG_LEVEL_STATS = 4  # no instruction trace: that one outgrows any buffer and then looks like a rejection
_LOG_BYTES = 4 << 20
_LOG_SHOWN = 4000  # its end, where the reason is

_lib = ctypes.CDLL(ctypes.util.find_library("bpf") or "libbpf.so.1", use_errno=True)
_libc = ctypes.CDLL(None)

_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_messages: list[str] = []


def _collect(_level: int, text: bytes, arguments: int) -> int:
    if _level < 2:  # warnings and news; not debugging
        line = ctypes.create_string_buffer(2048)
        _libc.vsnprintf(line, ctypes.c_size_t(len(line)), text, ctypes.c_void_p(arguments))
        _messages.append(line.value.decode(errors="replace").rstrip())
        del _messages[:-40]
    return 0


_print = _PRINT(_collect)

_P = ctypes.c_void_p
_SIGNATURES = {
    "bpf_object__open_file": (_P, [ctypes.c_char_p, _P]),
    "bpf_object__load": (ctypes.c_int, [_P]),
    "bpf_object__close": (None, [_P]),
    "bpf_object__btf": (_P, [_P]),
    "btf__raw_data": (_P, [_P, ctypes.POINTER(ctypes.c_uint32)]),
    "bpf_object__next_map": (_P, [_P, _P]),
    "bpf_map__name": (ctypes.c_char_p, [_P]),
    "bpf_map__fd": (ctypes.c_int, [_P]),
    "bpf_map__type": (ctypes.c_int, [_P]),
    "bpf_map__key_size": (ctypes.c_uint32, [_P]),
    "bpf_map__value_size": (ctypes.c_uint32, [_P]),
    "bpf_map__max_entries": (ctypes.c_uint32, [_P]),
    "bpf_map__map_flags": (ctypes.c_uint32, [_P]),
    "bpf_map__btf_key_type_id": (ctypes.c_uint32, [_P]),
    "bpf_map__btf_value_type_id": (ctypes.c_uint32, [_P]),
    "bpf_map__set_autocreate": (ctypes.c_int, [_P, ctypes.c_bool]),
    "bpf_map__set_max_entries": (ctypes.c_int, [_P, ctypes.c_uint32]),
    "bpf_map__set_pin_path": (ctypes.c_int, [_P, ctypes.c_char_p]),
    "bpf_map__is_internal": (ctypes.c_bool, [_P]),
    "bpf_map__initial_value": (_P, [_P, ctypes.POINTER(ctypes.c_size_t)]),
    "bpf_object__next_program": (_P, [_P, _P]),
    "bpf_program__name": (ctypes.c_char_p, [_P]),
    "bpf_program__fd": (ctypes.c_int, [_P]),
    "bpf_program__set_autoload": (ctypes.c_int, [_P, ctypes.c_bool]),
    "bpf_program__set_log_level": (ctypes.c_int, [_P, ctypes.c_uint32]),
    "bpf_program__set_log_buf": (ctypes.c_int, [_P, _P, ctypes.c_size_t]),
}
for _name, (_result, _arguments) in _SIGNATURES.items():
    _function = getattr(_lib, _name)
    _function.restype = _result
    _function.argtypes = _arguments
_lib.libbpf_set_print.restype = _P
_lib.libbpf_set_print(_print)


class LoadError(OSError):
    """The kernel took not the object; `log` is the verifier's."""

    def __init__(self, number: int, path: Path, log: str) -> None:
        super().__init__(number, f"{path.name}: {os.strerror(number)}\n{log}")
        self.log = log


@dataclass(frozen=True, slots=True)
class ObjectMap:
    """A map of an object that is not loaded yet."""

    handle: int
    name: str
    internal: bool

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Type, key size, value size, entries, flags: what must be equal for a pinned map to be used again."""
        h = self.handle
        return (
            _lib.bpf_map__type(h),
            _lib.bpf_map__key_size(h),
            _lib.bpf_map__value_size(h),
            _lib.bpf_map__max_entries(h),
            _lib.bpf_map__map_flags(h),
        )

    @property
    def type_ids(self) -> tuple[int, int]:
        """Of key and value, in the object's BTF; 0 where it has none, as rings."""
        return _lib.bpf_map__btf_key_type_id(self.handle), _lib.bpf_map__btf_value_type_id(self.handle)

    def set_max_entries(self, count: int) -> None:
        _lib.bpf_map__set_max_entries(self.handle, count)

    def set_pin_path(self, path: Path) -> None:
        """Use what is pinned there, or create and pin it."""
        if _lib.bpf_map__set_pin_path(self.handle, os.fsencode(path)):
            raise OSError(errno.EINVAL, f"pin path {path}")


class ObjectFile:
    """One .bpf.o, from open to close. File descriptors are dup'ed out of it; closing it closes only its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = _lib.bpf_object__open_file(os.fsencode(path), None)
        if not self._handle:
            raise OSError(ctypes.get_errno() or errno.EINVAL, f"{path}: " + "; ".join(_messages[-3:]))
        self._log = ctypes.create_string_buffer(_LOG_BYTES)

    def close(self) -> None:
        if self._handle:
            _lib.bpf_object__close(self._handle)
            self._handle = None

    def btf(self) -> Btf:
        size = ctypes.c_uint32()
        data = _lib.btf__raw_data(_lib.bpf_object__btf(self._handle), ctypes.byref(size))
        return Btf(ctypes.string_at(data, size.value))

    def maps(self) -> Iterator[ObjectMap]:
        handle = _lib.bpf_object__next_map(self._handle, None)
        while handle:
            yield ObjectMap(handle, _lib.bpf_map__name(handle).decode(), _lib.bpf_map__is_internal(handle))
            handle = _lib.bpf_object__next_map(self._handle, handle)

    def _programs(self) -> Iterator[int]:
        handle = _lib.bpf_object__next_program(self._handle, None)
        while handle:
            yield handle
            handle = _lib.bpf_object__next_program(self._handle, handle)

    def write_settings(self, settings: dict[str, bytes]) -> None:
        """Set `const volatile` variables, each to as many bytes as it has. Raises KeyError for an unknown one."""
        variables = self.btf().variables(".rodata")
        rodata = next(each for each in self.maps() if each.internal and each.name.endswith(".rodata"))
        size = ctypes.c_size_t()
        address = _lib.bpf_map__initial_value(rodata.handle, ctypes.byref(size))
        for name, value in settings.items():
            variable = variables[name]
            if len(value) != variable.size:
                raise ValueError(f"{name} has {variable.size} bytes, not {len(value)}")
            ctypes.memmove(address + variable.offset, value, variable.size)

    def create_maps(self, pins: Mapping[str, Path]) -> None:
        """These maps and nothing else, no program and no other map, pinned there. Raises LoadError."""
        for handle in self._programs():
            _lib.bpf_program__set_autoload(handle, False)
        for each in self.maps():
            if each.name in pins:
                each.set_pin_path(pins[each.name])
            else:
                _lib.bpf_map__set_autocreate(each.handle, False)
        self.load()

    def load(self, *, verbose: bool = False) -> dict[str, int]:
        """Create maps, verify programs; returns a new fd per program. Raises LoadError; then open the file anew, with
        `verbose` for the verifier's log."""
        for handle in self._programs():
            _lib.bpf_program__set_log_level(handle, _LOG_LEVEL_FAILURE if verbose else _LOG_LEVEL_STATS)
            _lib.bpf_program__set_log_buf(handle, self._log, _LOG_BYTES)
        _messages.clear()
        failure = _lib.bpf_object__load(self._handle)
        if failure:
            log = "\n".join(_messages[-8:]) + "\n" + self._log.value.decode(errors="replace")[-_LOG_SHOWN:]
            raise LoadError(-failure, self.path, log)
        fds = {_lib.bpf_program__name(h).decode(): _lib.bpf_program__fd(h) for h in self._programs()}
        return {name: os.dup(fd) for name, fd in fds.items() if fd >= 0}

    def processed_instructions(self) -> int:
        """What the verifier walked through, after load."""
        found = re.search(rb"processed (\d+) insns", self._log.value)
        return int(found[1]) if found else 0
