"""Each process of a lab lives in a cgroup of its own: which pids are ours is read from the kernel, never remembered.

Only cgroup v2 is used, wherever it is mounted (`/sys/fs/cgroup` or `/sys/fs/cgroup/unified`); zombies do not count.
"""

import errno
import functools
import os
import signal
import time
from pathlib import Path

from kilim.lab.errors import LabError
from kilim.lab.names import CGROUP_PARENT

_KILL_TIMEOUT_S = 10.0
_POLL_S = 0.01


@functools.cache
def cgroup2_mount() -> Path | None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount_point, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(mount_point)
    return None


def lab_cgroup(lab: str) -> Path:
    mount_point = cgroup2_mount()
    if mount_point is None:
        raise LabError("the lab needs cgroup v2 mounted (mount -t cgroup2 none /sys/fs/cgroup/unified)")
    return mount_point / CGROUP_PARENT / lab


def process_cgroup(lab: str, process: str) -> Path:
    return lab_cgroup(lab) / process


def create_cgroup(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)


def pids_in(cgroup: Path) -> list[int]:
    try:
        return [int(line) for line in (cgroup / "cgroup.procs").read_text().split()]
    except FileNotFoundError:
        return []


def signal_all(cgroup: Path, number: signal.Signals) -> list[int]:
    """Sends the signal to every process of the cgroup; answers which were there."""
    pids = pids_in(cgroup)
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    return pids


def remove_cgroup(path: Path) -> None:
    """Kills everything below `path`, also what is stopped, and removes the directories. Idempotent."""
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while path.exists() and not _removed(path):
        if time.monotonic() > deadline:
            raise LabError(f"{path}: processes {_pids_below(path)} do not die")
        time.sleep(_POLL_S)


def _removed(path: Path) -> bool:
    # Each time anew: a child of a killed `up` may join after the last one.
    (path / "cgroup.kill").write_text("1")
    if "populated 1" in (path / "cgroup.events").read_text():
        return False
    try:
        for directory, _, _ in os.walk(path, topdown=False):
            os.rmdir(directory)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def _pids_below(path: Path) -> list[int]:
    return [pid for directory, _, _ in os.walk(path) for pid in pids_in(Path(directory))]


def labs_with_cgroups() -> set[str]:
    mount_point = cgroup2_mount()
    parent = mount_point / CGROUP_PARENT if mount_point else None
    if parent is None or not parent.is_dir():
        return set()
    return {entry.name for entry in parent.iterdir() if entry.is_dir()}
