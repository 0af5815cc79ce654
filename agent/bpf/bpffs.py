"""The file system in which maps and links are pinned, so that they outlive the agent."""

import ctypes
import fcntl
import os
from pathlib import Path

_BPF_FS_MAGIC = 0xCAFE4A11
_DEFAULT = Path("/sys/fs/bpf")
_LOCK = Path("/run/lock/kilim-bpffs.lock")

_libc = ctypes.CDLL(None, use_errno=True)


def is_bpffs(path: Path) -> bool:
    buffer = (ctypes.c_long * 32)()
    return _libc.statfs(os.fsencode(path), ctypes.byref(buffer)) == 0 and buffer[0] == _BPF_FS_MAGIC


def unmount(root: Path) -> None:
    """The bpffs that was mounted for this directory alone, if there is one."""
    if os.path.ismount(root) and is_bpffs(root) and _libc.umount(os.fsencode(root)):
        number = ctypes.get_errno()
        raise OSError(number, f"{root}: {os.strerror(number)}")


def _nearest_existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def sees_bpffs(root: Path) -> bool:
    """Whether `root` is, or would be, in a bpffs."""
    return is_bpffs(_nearest_existing(root))


def ensure_bpffs(root: Path) -> None:
    """Make `root` a directory of a bpffs, mounting one at /sys/fs/bpf, or at `root` if that is elsewhere. Agents that
    start together must not mount over one another: the second mount would hide the first one's pins, hence the lock."""
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with open(_LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not sees_bpffs(root):
            mount_point = _DEFAULT if root.is_relative_to(_DEFAULT) else root
            mount_point.mkdir(parents=True, exist_ok=True)
            if _libc.mount(b"bpf", os.fsencode(mount_point), b"bpf", 0, None):
                number = ctypes.get_errno()
                raise OSError(number, f"mount bpffs at {mount_point}: {os.strerror(number)}")
    for directory in (root / "maps", root / "links"):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
