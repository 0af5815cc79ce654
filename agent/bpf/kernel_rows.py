"""What the kernel holds, read whole: the rows of `Tables` with the local inputs they were joined with (I13)."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from kilim.agent.bpf import rows
from kilim.agent.bpf.addresses import ips_of
from kilim.agent.bpf.maps import Maps, Rows
from kilim.agent.core.drift import DriftedRow, in_words
from kilim.model.address import format_ip
from kilim.model.mac import node_mac, pod_mac
from kilim.model.rows import RowChange
from kilim.model.tables import EndpointValue, IpcacheKey, IpcacheValue, PolicyRows, Tables

NO_INTERFACE = 0
FLAGS_MAX = 0xFF  # as rows are packed; we write 0 and 1


class KernelEndpoint(NamedTuple):
    ifindex: int  # NO_INTERFACE: the MAC addresses are not those of the endpoint id; it is to be written anew
    identity: int
    endpoint_id: int
    flags: int

    @property
    def logical(self) -> EndpointValue:
        return EndpointValue(self.endpoint_id, self.identity, self.flags)


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
    foreign: list[tuple[Rows, Rows]] = field(default_factory=list)  # policy entries that no agent writes
    stamp: int = 0  # highest table or revision in use

    def tables(self) -> Tables:
        return Tables(
            dict(self.ipcache),
            {ip: endpoint.logical for ip, endpoint in self.endpoints.items()},
            {identity: subject.flags for identity, subject in self.subjects.items()},
            {subject: dict(policy) for subject, policy in self.policy.items()},
        )


def read_kernel_rows(maps: Maps) -> KernelRows:
    kernel = KernelRows(ipcache=rows.decode_ipcache(*maps["ipcache"].read()))
    keys, values = maps["endpoints"].read()
    whole = has_local_inputs(values)
    for ip, row, is_whole in zip(ips_of(keys["ip"]), values.tolist(), whole, strict=True):
        ifindex, flags = (row[0] if is_whole else NO_INTERFACE), min(row[3], FLAGS_MAX)
        kernel.endpoints[ip] = KernelEndpoint(ifindex, row[1], row[2], flags)
    keys, values = maps["subjects"].read()
    for identity, row in zip(keys["identity"].tolist(), values.tolist(), strict=True):
        subject = kernel.subjects[identity] = KernelSubject(*row)
        kernel.table_of[identity] = subject.table
        kernel.stamp = max(kernel.stamp, subject.table, subject.revision)
    if not kernel.subjects:
        kernel.stamp = _last_revision(maps)
    _read_policy(maps, kernel)
    return kernel


def local_differences(written: KernelRows, held: KernelRows) -> list[DriftedRow]:
    """Rows that are the same but for what is not in the log."""
    found: list[DriftedRow] = []
    for ip, was in written.endpoints.items():
        now = held.endpoints.get(ip)
        if now is not None and was[1:] == now[1:] and was.ifindex not in (now.ifindex, NO_INTERFACE):
            found.append(drifted_endpoint(ip, was.ifindex, now.ifindex))
    for identity, subject in written.subjects.items():
        other = held.subjects.get(identity)
        if other is not None and other[:2] != subject[:2]:
            found.append(drifted_subject(identity, subject, other))
    return [*found, *foreign_rows(held)]


def drifted_endpoint(ip: int, written: int, held: int) -> DriftedRow:
    """From the interfaces; NO_INTERFACE: the MAC addresses are not those of its endpoint id."""
    what = f"ifindex {held}" if held else "other MAC addresses"
    return DriftedRow("endpoints", format_ip(ip), what, f"ifindex {written}")


def drifted_subject(identity: int, written: KernelSubject, held: KernelSubject) -> DriftedRow:
    texts = [f"table {each.table} revision {each.revision}" for each in (held, written)]
    return DriftedRow("subjects", str(identity), *texts)


def foreign_rows(kernel: KernelRows) -> list[DriftedRow]:
    found = []
    for keys, values in kernel.foreign:
        way = keys["way"]
        columns = [keys["subject"], way & 1, keys["peer"], keys["protocol"], keys["port"]]
        columns += [rows.port_prefix_lens(keys), way >> 1, values["value"]]
        for *key, value in zip(*(column.tolist() for column in columns), strict=True):
            found.append(in_words(RowChange("policy", tuple(key), (value,), None)))
    return found


def has_local_inputs(values: Rows) -> list[bool]:
    """Of each row of `endpoints`, whether it has the MAC addresses that follow from its endpoint id."""
    macs = np.concatenate([values["mac"], values["node_mac"]], axis=1) if len(values) else values["mac"]
    return [
        row.tobytes() == pod_mac(number) + node_mac(number)
        for number, row in zip(values["endpoint_id"].tolist(), macs, strict=True)
    ]


def _last_revision(maps: Maps) -> int:
    """Of subjects that are gone, as connections remember it: none of them may meet its revision again by chance."""
    _, entries = maps["ct"].read()
    return int(entries["verdicts"]["revision"].max(initial=0))


def _read_policy(maps: Maps, kernel: KernelRows) -> None:
    keys, values = maps["policy"].read()
    foreign = rows.foreign_policy(keys)
    if foreign.any():
        kernel.foreign.append((keys[foreign].copy(), values[foreign].copy()))
        keys, values = keys[~foreign], values[~foreign]
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
