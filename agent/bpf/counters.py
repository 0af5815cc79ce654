"""The datapath's counters: packets and bytes by (reason, direction), summed over CPUs."""

import errno
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kilim.agent.bpf import syscall
from kilim.agent.bpf.layout import METRIC_VALUE


class Counted(NamedTuple):
    reason: int
    direction: int
    packets: int
    bytes: int


def possible_cpus() -> int:
    text = Path("/sys/devices/system/cpu/possible").read_text()
    return int(text.strip().replace("-", ",").split(",")[-1]) + 1


def read_counters(fd: int) -> list[Counted]:
    """Those that are not zero, by reason and direction."""
    entries = syscall.map_info(fd).max_entries
    keys = np.zeros(entries, np.uint32)
    values = np.zeros((entries, possible_cpus()), METRIC_VALUE)
    position = np.zeros(8, np.uint8)
    result = syscall.batch(syscall.MAP_LOOKUP_BATCH, fd, keys, values, (0, int(position.ctypes.data)))
    if result.error not in (0, errno.ENOENT):
        raise OSError(result.error, os.strerror(result.error))
    packets, octets = values["packets"].sum(axis=1), values["bytes"].sum(axis=1)
    return [
        Counted(int(keys[i]) // 2, int(keys[i]) % 2, int(packets[i]), int(octets[i]))
        for i in np.flatnonzero(packets).tolist()
    ]
