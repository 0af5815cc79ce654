"""What the kernel holds, read whole: the rows of `Tables` with the local inputs they were joined with (I13)."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from kilim.agent.bpf import rows
from kilim.agent.bpf.maps import Maps, Rows
from kilim.model.tables import IpcacheKey, IpcacheValue, PolicyRows, Tables


class KernelEndpoint(NamedTuple):
    ifindex: int
    identity: int
    endpoint_id: int


class KernelSubject(NamedTuple):
    table: int
    revision: int
    flags: int


@dataclass(slots=True)
class KernelRows:
    ipcache: dict[IpcacheKey, IpcacheValue] = field(default_factory=dict)
    endpoints: dict[int, KernelEndpoint] = field(default_factory=dict)
    subjects: dict[int, KernelSubject] = field(default_factory=dict)
    policy: dict[int, PolicyRows] = field(default_factory=dict)  # under the subject's present table
    table_of: dict[int, int] = field(default_factory=dict)  # where those rows are
    leftovers: list[Rows] = field(default_factory=list)  # policy keys at which no subject points
    stamp: int = 0  # highest table or revision in use

    def tables(self) -> Tables:
        return Tables(
            dict(self.ipcache),
            {ip: (endpoint.endpoint_id, endpoint.identity) for ip, endpoint in self.endpoints.items()},
            {identity: subject.flags for identity, subject in self.subjects.items()},
            {subject: dict(policy) for subject, policy in self.policy.items()},
        )


def read_kernel_rows(maps: Maps) -> KernelRows:
    kernel = KernelRows(ipcache=rows.decode_ipcache(*maps["ipcache"].read()))
    keys, values = maps["endpoints"].read()
    for ip, row in zip(keys["ip"].tolist(), values.tolist(), strict=True):
        kernel.endpoints[ip] = KernelEndpoint(*row[:3])
    keys, values = maps["subjects"].read()
    for identity, row in zip(keys["identity"].tolist(), values.tolist(), strict=True):
        subject = kernel.subjects[identity] = KernelSubject(*row)
        kernel.table_of[identity] = subject.table
        kernel.stamp = max(kernel.stamp, subject.table, subject.revision)
    if not kernel.subjects:
        kernel.stamp = _last_revision(maps)
    _read_policy(maps, kernel)
    return kernel


def _last_revision(maps: Maps) -> int:
    """Of subjects that are gone, as connections remember it: none of them may meet its revision again by chance."""
    _, entries = maps["ct"].read()
    return int(entries["verdicts"]["revision"].max(initial=0))


def _read_policy(maps: Maps, kernel: KernelRows) -> None:
    keys, values = maps["policy"].read()
    order = np.lexsort((keys["table"], keys["subject"]))
    keys, values = keys[order], values[order]
    changes = (keys["subject"][1:] != keys["subject"][:-1]) | (keys["table"][1:] != keys["table"][:-1])
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), len(keys)] if len(keys) else []
    for start, end in pairwise(bounds):
        subject, table = int(keys["subject"][start]), int(keys["table"][start])
        kernel.stamp = max(kernel.stamp, table)
        if kernel.table_of.get(subject) == table:
            kernel.policy[subject] = rows.decode_policy(keys[start:end], values[start:end])
        else:  # of a flip that an agent before us did not see to its end
            kernel.leftovers.append(keys[start:end].copy())
