"""bpf(2) by its numbers. Debian's libbpf 1.1 knows neither tcx links nor numpy, so maps and links go straight to it."""

import ctypes
import errno
import os
import platform
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_SYSCALL_NUMBER = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_MEMBARRIER, _MEMBARRIER_GLOBAL = {"x86_64": 324, "aarch64": 283}[platform.machine()], 1

MAP_LOOKUP_ELEM = 1
MAP_UPDATE_ELEM = 2
MAP_GET_NEXT_KEY = 4
OBJ_PIN = 6
OBJ_GET = 7
PROG_TEST_RUN = 10
OBJ_GET_INFO_BY_FD = 15
BTF_GET_FD_BY_ID = 19
MAP_LOOKUP_BATCH = 24
MAP_UPDATE_BATCH = 26
MAP_DELETE_BATCH = 27
LINK_CREATE = 28
LINK_UPDATE = 29
LINK_DETACH = 34

_NOEXIST = 1

CGROUP_SOCK_OPS = 3
SK_MSG_VERDICT = 7
TCX_INGRESS = 46
TCX_EGRESS = 47

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

Array = npt.NDArray[Any]


def wait_for_programs() -> None:
    """Until every program that runs now, on whichever CPU, has come to its end: an RCU grace period, which is what
    membarrier(2) waits for. Whoever begins later sees what was written before."""
    if _libc.syscall(_MEMBARRIER, _MEMBARRIER_GLOBAL, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"membarrier: {os.strerror(number)}")


class MapInfo(NamedTuple):
    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str
    btf_id: int = 0  # 0: the kernel knows no types of it
    key_type_id: int = 0
    value_type_id: int = 0


class LinkInfo(NamedTuple):
    type: int  # 0: no link but a clsact filter, which has no id
    id: int
    prog_id: int
    ifindex: int  # 0: the device is gone, the link is a zombie
    attach_type: int


class ProgInfo(NamedTuple):
    type: int
    id: int
    instructions: int  # after the verifier's rewriting
    verified_instructions: int
    name: str


class ProgramRun(NamedTuple):
    retval: int
    data: bytes
    duration_ns: int  # mean of one repetition


def bpf(command: int, attr: bytes | ctypes.Array[ctypes.c_char]) -> int:
    """One call. `attr` is changed in place where the kernel answers in it, if it is a ctypes buffer. Raises OSError."""
    buffer = attr if isinstance(attr, ctypes.Array) else ctypes.create_string_buffer(attr, len(attr))
    result: int = _libc.syscall(_SYSCALL_NUMBER, command, ctypes.byref(buffer), ctypes.sizeof(buffer))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _address(array: Array) -> int:
    if not array.flags.c_contiguous:
        raise ValueError("the kernel needs a contiguous array")
    return int(array.ctypes.data)


def lookup_elem(fd: int, key: Array, value: Array) -> None:
    """Fills `value`. Raises FileNotFoundError."""
    bpf(MAP_LOOKUP_ELEM, struct.pack("<IxxxxQQQ", fd, _address(key), _address(value), 0))


def lookup_elems(fd: int, keys: Array, values: Array) -> list[int]:
    """Fills `values` where there is one, and says where that is. One call each: batches do not look up given keys."""
    key, value = _address(keys), _address(values)
    attr = ctypes.create_string_buffer(32)
    pointer, size = ctypes.byref(attr), ctypes.sizeof(attr)
    found: list[int] = []
    for number in range(len(keys)):
        struct.pack_into("<IxxxxQQQ", attr, 0, fd, key, value, 0)
        if _libc.syscall(_SYSCALL_NUMBER, MAP_LOOKUP_ELEM, pointer, size) == 0:
            found.append(number)
        elif ctypes.get_errno() != errno.ENOENT:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        key += keys.itemsize
        value += values.itemsize
    return found


def count_keys(fd: int, key_dtype: Any) -> int:
    """Of a map that takes no batches."""
    before, after = np.zeros(1, key_dtype), np.zeros(1, key_dtype)
    address, count = 0, 0
    while True:
        try:
            bpf(MAP_GET_NEXT_KEY, struct.pack("<IxxxxQQQ", fd, address, _address(after), 0))
        except FileNotFoundError:
            return count
        before[:], address, count = after, _address(before), count + 1


def add_elems(fd: int, keys: Array, values: Array) -> int:
    """Write those that are not there, and say how many that were. One call each: batches take no BPF_NOEXIST."""
    key, value, added = _address(keys), _address(values), 0
    attr = ctypes.create_string_buffer(32)
    pointer, size = ctypes.byref(attr), ctypes.sizeof(attr)
    for _ in range(len(keys)):
        struct.pack_into("<IxxxxQQQ", attr, 0, fd, key, value, _NOEXIST)
        if _libc.syscall(_SYSCALL_NUMBER, MAP_UPDATE_ELEM, pointer, size) == 0:
            added += 1
        elif ctypes.get_errno() != errno.EEXIST:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        key += keys.itemsize
        value += values.itemsize
    return added


class Batch(NamedTuple):
    done: int  # elements
    error: int  # 0 or an errno


def batch(command: int, fd: int, keys: Array, values: Array | None, in_out: tuple[int, int] = (0, 0)) -> Batch:
    """One *_BATCH call; `in_out` are the addresses of a dump's position before and after."""
    packed = struct.pack(
        "<QQQQIIQQ", *in_out, _address(keys), 0 if values is None else _address(values), len(keys), fd, 0, 0
    )
    buffer = ctypes.create_string_buffer(packed, len(packed))
    error = 0
    try:
        bpf(command, buffer)
    except OSError as failure:
        error = failure.errno or 0
    return Batch(struct.unpack_from("<I", buffer, 32)[0], error)


def _path_attr(path: Path, fd: int) -> tuple[ctypes.Array[ctypes.c_char], bytes]:
    name = ctypes.create_string_buffer(os.fsencode(path))
    return name, struct.pack("<QII", ctypes.addressof(name), fd, 0)


def pin(fd: int, path: Path) -> None:
    name, attr = _path_attr(path, fd)
    bpf(OBJ_PIN, attr)
    del name


def open_pinned(path: Path) -> int:
    """A new fd for what is pinned there. Raises FileNotFoundError."""
    name, attr = _path_attr(path, 0)
    fd = bpf(OBJ_GET, attr)
    del name
    return fd


def create_tcx_link(prog_fd: int, ifindex: int, attach_type: int) -> int:
    """`ifindex` is one of the calling thread's network namespace."""
    return bpf(LINK_CREATE, struct.pack("<IIIIIIQ", prog_fd, ifindex, attach_type, 0, 0, 0, 0))


def create_link(prog_fd: int, target_fd: int, attach_type: int) -> int:
    """To a cgroup or a map, by its descriptor."""
    return bpf(LINK_CREATE, struct.pack("<IIII", prog_fd, target_fd, attach_type, 0))


def supports_tcx(prog_fd: int) -> bool:
    """Asks for a link on no device: a kernel that knows tcx misses the device, another one the kind of link."""
    try:
        os.close(create_tcx_link(prog_fd, 0, TCX_INGRESS))
    except OSError as failure:
        if failure.errno not in (errno.ENODEV, errno.EINVAL):
            raise
        return failure.errno == errno.ENODEV
    return True


def update_link(link_fd: int, prog_fd: int) -> None:
    bpf(LINK_UPDATE, struct.pack("<IIII", link_fd, prog_fd, 0, 0))


def detach_link(link_fd: int) -> None:
    bpf(LINK_DETACH, struct.pack("<I", link_fd))


def _info(fd: int, size: int) -> bytes:
    info = ctypes.create_string_buffer(size)
    bpf(OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, size, ctypes.addressof(info)))
    return info.raw


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode()


def map_info(fd: int) -> MapInfo:
    raw = _info(fd, 88)
    kind, number, key_size, value_size, max_entries, flags = struct.unpack_from("<6I", raw)
    btf = struct.unpack_from("<III", raw, 64)
    return MapInfo(kind, number, key_size, value_size, max_entries, flags, _text(raw[24:40]), *btf)


def read_btf(number: int) -> bytes:
    """The types that the kernel holds under an id. Raises OSError."""
    fd = bpf(BTF_GET_FD_BY_ID, struct.pack("<IIII", number, 0, 0, 0))
    try:
        size = struct.unpack_from("<I", _info(fd, 32), 8)[0]
        data, info = ctypes.create_string_buffer(size), ctypes.create_string_buffer(32)
        struct.pack_into("<QI", info, 0, ctypes.addressof(data), size)
        bpf(OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, 32, ctypes.addressof(info)))
        return data.raw
    finally:
        os.close(fd)


def link_info(fd: int) -> LinkInfo:
    return LinkInfo(*struct.unpack_from("<IIIxxxxII", _info(fd, 64)))


def prog_info(fd: int) -> ProgInfo:
    raw = _info(fd, 232)
    kind, number = struct.unpack_from("<II", raw)
    xlated_bytes = struct.unpack_from("<I", raw, 20)[0]
    verified = struct.unpack_from("<I", raw, 216)[0]
    return ProgInfo(kind, number, xlated_bytes // 8, verified, _text(raw[64:80]))


def run_program(prog_fd: int, packet: bytes, repeat: int = 1, ctx: bytes = b"") -> ProgramRun:
    """Run a tc program on a frame; `ctx` is a struct __sk_buff."""
    data_in = ctypes.create_string_buffer(packet, len(packet))
    data_out = ctypes.create_string_buffer(len(packet) + 256)
    ctx_in = ctypes.create_string_buffer(ctx, max(len(ctx), 1))
    attr = struct.pack(
        "<IIIIQQIIIIQQIII",
        *(prog_fd, 0, len(packet), len(data_out), ctypes.addressof(data_in), ctypes.addressof(data_out)),
        *(repeat, 0, len(ctx), 0, ctypes.addressof(ctx_in) if ctx else 0, 0, 0, 0, 0),
    )
    buffer = ctypes.create_string_buffer(attr, len(attr) + 4)
    bpf(PROG_TEST_RUN, buffer)
    retval, _, size_out = struct.unpack_from("<III", buffer, 4)
    return ProgramRun(retval, data_out.raw[:size_out], struct.unpack_from("<I", buffer, 36)[0])
