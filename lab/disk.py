"""Small disks for etcd members, that can be filled: a tmpfs below each member's run directory.

Easy to get wrong: etcd allocates its write-ahead log 64 MB at a time, ahead of need, so a full disk does not stop it
until it writes its database. A mount outlives the process that made it: `down` unmounts whatever it finds.
"""

import ctypes
import errno
import os
from pathlib import Path

_MNT_DETACH = 2
_CHUNK = bytes(1 << 20)
BALLAST = "ballast"
# Two segments of etcd's write-ahead log, its database, and the disk's own records.
LEAST_MIB = 160

_libc = ctypes.CDLL(None, use_errno=True)


def mount_disk(directory: Path, mib: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    options = f"size={mib}m,mode=0700".encode()
    if _libc.mount(b"kilim-lab", os.fsencode(directory), b"tmpfs", 0, options) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {directory}: {os.strerror(number)}")


def unmount_disks_below(directory: Path) -> None:
    """Idempotent."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in points:
        if Path(point).is_relative_to(directory):
            _libc.umount2(os.fsencode(point), _MNT_DETACH)


def fill_disk(directory: Path) -> int:
    """Until nothing more fits; how many bytes of ballast there are."""
    with open(directory / BALLAST, "ab", buffering=0) as ballast:
        size = len(_CHUNK)
        while size:
            try:
                ballast.write(_CHUNK[:size])
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 2
        return ballast.tell()


def free_disk(directory: Path) -> None:
    (directory / BALLAST).unlink(missing_ok=True)
