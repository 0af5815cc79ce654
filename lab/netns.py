"""Network namespaces by name: made, entered and removed by system calls, without a child process.

`ip netns exec` and `ip -n` remount /sys and so hide bpffs and cgroups; a thread that calls setns(2) and ends does not.
"""

import ctypes
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kilim.lab.names import NETNS_DIR

_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_SHARED = 1 << 20
_MNT_DETACH = 2

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


def create_netns(path: Path) -> None:
    """A new namespace with `lo` down, kept alive by a bind mount on `path`."""
    _make_shared_netns_dir()

    def unshare_and_mount() -> None:
        path.touch(exist_ok=False)
        _checked(_libc.unshare(_CLONE_NEWNET), "unshare")
        _mount(b"/proc/thread-self/ns/net", os.fsencode(path), _MS_BIND)

    _in_thread(unshare_and_mount)


def delete_netns(path: Path) -> None:
    """Takes the name away; the kernel frees the namespace when its last socket and process are gone. Idempotent."""
    while _libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:
        pass
    path.unlink(missing_ok=True)


def in_netns(path: Path, work: Callable[[], T]) -> T:
    """Runs `work` in a thread of its own inside the namespace. Sockets it opens stay there wherever they are used."""

    def enter_and_work() -> T:
        with open(path, "rb") as handle:
            _checked(_libc.setns(handle.fileno(), _CLONE_NEWNET), f"setns {path}")
        return work()

    return _in_thread(enter_and_work)


def open_socket(path: Path, family: int, kind: int, protocol: int = 0) -> socket.socket:
    opened = in_netns(path, lambda: socket.socket(family, kind, protocol))
    opened.setblocking(False)
    return opened


def _make_shared_netns_dir() -> None:
    # As iproute2 does: a directory that is a mount point of its own keeps later `ip netns` calls from mounting over the
    # files, which would leave namespaces that nobody can remove.
    NETNS_DIR.mkdir(parents=True, exist_ok=True)
    target = os.fsencode(NETNS_DIR.resolve())
    if _libc.mount(b"", target, b"none", _MS_SHARED | _MS_REC, None) == 0:
        return
    _mount(target, target, _MS_BIND | _MS_REC)
    _checked(_libc.mount(b"", target, b"none", _MS_SHARED | _MS_REC, None), "mount --make-shared")


def _mount(source: bytes, target: bytes, flags: int) -> None:
    _checked(_libc.mount(source, target, b"none", flags, None), f"mount {target.decode()}")


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _in_thread(work: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
