"""The other executor: the loaded programs, run on one packet at a time by BPF_PROG_TEST_RUN, and what they left.

A packet that redirects is not sent; where to is seen by the MAC addresses that were written, or not. VLAN tags cannot
be given apart from the frame, and the device is the loopback device.
"""

import os
import platform
import shutil
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kilim.agent.bpf import libbpf, rows, syscall
from kilim.agent.bpf.datapath import Datapath
from kilim.agent.bpf.epoch import NODE, WIRE, Epoch
from kilim.agent.bpf.layout import TICK_SHIFT
from kilim.agent.records import decode_records
from kilim.model.address import from_mapped, is_ipv6, mapped
from kilim.model.tables import PolicyKey
from tests.datapath.model.packet import REPLY, REQUEST
from tests.datapath.model.state import (
    DROP,
    EGRESS,
    INGRESS,
    Connection,
    ConnectionKey,
    Consent,
    End,
    FirstFragment,
    FragmentKey,
    Mapped,
    MappingKey,
    Node,
    Outcome,
    Record,
    Row,
    Settings,
    Tables,
)
from tests.kernel.wire import Namespace

LO = 1
_CLOCK_MONOTONIC_COARSE = 6  # which Python does not name

_TUNNEL_KEY = np.dtype(
    [
        *(("tunnel_id", "=u4"), ("remote", "V16"), ("tos", "u1"), ("ttl", "u1"), ("ext", "=u2"), ("label", "=u4")),
        *(("local", "V16"), ("pad", "V4"), ("flags", "=u8")),
    ]
)
_ECHOES = ("", REQUEST, REPLY)  # of struct packet
_IPV6_TUNNEL = 1  # BPF_F_TUNINFO_IPV6


def ticks() -> int:
    """The datapath's clock."""
    return time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE) >> TICK_SHIFT


class Shim:
    """Runs a program, or none, on packets that have come out of a tunnel."""

    def __init__(self, path: Path, target_fd: int | None) -> None:
        self._file = libbpf.ObjectFile(path)
        self.fd = self._file.load()["out_of_tunnel"]
        fds = {each.name: libbpf._lib.bpf_map__fd(each.handle) for each in self._file.maps()}
        self._origin_fd = fds["origin"]
        self._index = np.zeros(1, np.uint32)
        syscall.batch(syscall.MAP_UPDATE_BATCH, self._origin_fd, self._index, np.zeros(1, _TUNNEL_KEY))
        if target_fd is not None:
            _update(fds["next"], self._index, np.array([target_fd], np.uint32))

    def set_origin(self, outer: int, vni: int) -> None:
        value = np.zeros(1, _TUNNEL_KEY)
        address = mapped(outer) if is_ipv6(outer) else struct.pack("<I", outer) + bytes(12)
        value["tunnel_id"], value["flags"] = vni, _IPV6_TUNNEL if is_ipv6(outer) else 0
        value["local"] = np.frombuffer(address, "V16")  # of who sends; who receives reads it as the remote end
        _update(self._origin_fd, self._index, value)

    def close(self) -> None:
        os.close(self.fd)
        self._file.close()


def _update(fd: int, key: Any, value: Any) -> None:
    syscall.bpf(2, struct.pack("<IxxxxQQQ", fd, key.ctypes.data, value.ctypes.data, 0))


class Kernel:
    """Over one loaded datapath, whose tables it empties and fills."""

    def __init__(self, datapath: Datapath, shim: Path, namespace: Namespace, settings: Settings) -> None:
        """`settings`: those of the datapath. Packets are of this network namespace."""
        self.settings = settings
        self._datapath = datapath
        self._namespace = namespace
        self._maps = datapath.maps
        self._shim = Shim(shim, datapath.program_fd("overlay"))
        self._epochs = [Epoch(self._maps["epoch"], of) for of in (NODE, WIRE)]
        self._tables = Tables()
        for name in ("ipcache", "endpoints", "subjects", "policy", "ct", "fragments", "snat"):
            self._maps[name].delete(self._maps[name].read()[0])
        datapath.events.read()
        self._counted = self._count()

    def close(self) -> None:
        self._shim.close()

    def load(self, tables: Tables) -> None:
        """These rows and no others; connections stay."""
        old = self._tables
        if tables == old:
            return
        self._maps["ipcache"].delete(rows.ipcache_keys([key for key in old.ipcache if key not in tables.ipcache]))
        self._maps["endpoints"].delete(rows.endpoint_keys([ip for ip in old.endpoints if ip not in tables.endpoints]))
        self._maps["subjects"].delete(rows.subject_keys(old.subjects.keys() - tables.subjects.keys()))
        self._maps["policy"].delete(_policy_keys(row for row in old.policy if row not in tables.policy))
        self._maps["ipcache"].update(rows.ipcache_keys(tables.ipcache), rows.ipcache_values(tables.ipcache.values()))
        endpoints = tables.endpoints
        self._maps["endpoints"].update(rows.endpoint_keys(endpoints), rows.endpoint_values(_fields(endpoints.values())))
        self._maps["subjects"].update(
            rows.subject_keys(tables.subjects), rows.subject_values(_fields(tables.subjects.values()))
        )
        self._maps["policy"].update(_policy_keys(tables.policy), rows.policy_values(tables.policy.values()))
        for epoch in self._epochs:
            epoch.advance()
        self._tables = Tables(dict(tables.ipcache), dict(tables.endpoints), dict(tables.subjects), dict(tables.policy))

    def take_rows_away(self) -> None:
        """All, and nobody says so."""
        for name in ("ipcache", "endpoints", "subjects", "policy"):
            self._maps[name].delete(self._maps[name].read()[0])
        self._tables = Tables()

    def run(self, program: str, frame: bytes, tunnel: tuple[int, int] | None = None) -> Outcome:
        """Its counters are empty; see `take_counters`."""
        fd = self._datapath.program_fd(program)
        if program == "overlay" and tunnel is not None:
            self._shim.set_origin(*tunnel)
            fd = self._shim.fd
        with self._namespace.entered():
            result = syscall.run_program(fd, frame)
        records = [_record(each) for each in decode_records(self._datapath.events.read())]
        reason = next((each.reason for each in records if each.type == 2), 0)
        return Outcome(result.retval, reason, result.data, records)

    def repeat(self, program: str, frame: bytes, times: int) -> None:
        """Nobody reads records meanwhile."""
        syscall.run_program(self._datapath.program_fd(program), frame, times)
        self._datapath.events.read()

    def take_counters(self) -> Counter[tuple[int, int]]:
        """Packets by reason and direction since the last call."""
        before, self._counted = self._counted, self._count()
        return self._counted - before

    def _count(self) -> Counter[tuple[int, int]]:
        return Counter({(each.reason, each.direction): each.packets for each in self._datapath.counters()})

    def connections(self) -> dict[ConnectionKey, Connection]:
        keys, values = self._maps["ct"].read()
        return dict(map(_connection, keys, values))

    def fragments(self) -> dict[FragmentKey, FirstFragment]:
        return dict(map(_fragment, *self._maps["fragments"].read()))

    def mappings(self) -> dict[MappingKey, Mapped]:
        return dict(map(_mapping, *self._maps["snat"].read()))

    def forget_connections(self) -> None:
        """And first fragments, and mappings."""
        for name in ("ct", "fragments", "snat"):
            self._maps[name].delete(self._maps[name].read()[0])

    def expire_connections(self) -> None:
        """All, and first fragments, as if their time had passed."""
        for name in ("ct", "fragments"):
            keys, values = self._maps[name].read()
            values["expires"] = 0
            self._maps[name].update(keys, values)


def _fields(values: Iterable[Any]) -> list[Any]:
    return [tuple(value) for value in values]


def _policy_keys(keys: Iterable[Row]) -> Any:
    parts = [((row.table, row.subject), [PolicyKey(*row[2:])]) for row in keys]
    return rows.policy_keys_of(parts)


def _record(record: Any) -> Record:
    return Record(*record[1:])


def _connection(key: Any, value: Any) -> tuple[ConnectionKey, Connection]:
    ends = [End(from_mapped(bytes(key[f"ip_{which}"])), int(key[f"port_{which}"])) for which in ("lo", "hi")]
    consents = {
        direction: Consent(*(int(each) for each in value["verdicts"][direction].item()))
        for direction in (INGRESS, EGRESS)
        if value["verdicts"][direction]["subject"]
    }
    audited = frozenset(direction for direction in (INGRESS, EGRESS) if int(value["audited"]) >> direction & 1)
    connection = Connection(
        ends[int(value["initiator"])],
        int(value["expires"]),
        [int(flags) for flags in value["tcp_flags"]],
        consents,
        audited,
    )
    return (int(key["protocol"]), frozenset(ends)), connection


def _fragment(key: Any, value: Any) -> tuple[FragmentKey, FirstFragment]:
    ends = from_mapped(bytes(key["src"])), from_mapped(bytes(key["dst"]))
    ports = (int(value[name]) for name in ("expires", "src_port", "dst_port", "policy_port", "protocol"))
    number = int(key["id"]) if is_ipv6(ends[0]) else int(key["id"]) >> 16
    return (*ends, number, int(key["protocol"])), FirstFragment(*ports, _ECHOES[int(value["echo"])])


def _mapping(key: Any, value: Any) -> tuple[MappingKey, Mapped]:
    source, destination = (End(from_mapped(bytes(key[at])), int(key[f"{at}_port"])) for at in ("src", "dst"))
    to = Mapped(from_mapped(bytes(value["ip"])), int(value["port"]), int(value["endpoint_id"]))
    return (int(key["protocol"]), source, destination, int(key["direction"])), to


def mapping_differences(node: Node, seen: dict[MappingKey, Mapped]) -> list[str]:
    return [] if node.mappings == seen else [f"mappings: the model has {node.mappings}, the kernel {seen}"]


def fragment_differences(node: Node, seen: dict[FragmentKey, FirstFragment]) -> list[str]:
    """But for when they expire."""
    held = ({key: first._replace(expires=0) for key, first in each.items()} for each in (node.fragments, seen))
    wanted, got = held
    return [] if wanted == got else [f"first fragments: the model has {wanted}, the kernel {got}"]


def differences(expected: Outcome, seen: Outcome) -> list[str]:
    """Between what the model says of a packet and what the kernel did."""
    found = [
        f"{name}: the model says {wanted}, the kernel {got}"
        for name, wanted, got in (
            ("verdict", expected.verdict, seen.verdict),
            ("records", expected.records, seen.records),
            ("frame", expected.frame.hex(), seen.frame.hex()),
        )
        if wanted != got
    ]
    if expected.verdict == DROP and expected.records and not found and expected.reason != seen.reason:
        found.append(f"reason: the model says {expected.reason}, the kernel {seen.reason}")
    return found


def connection_differences(node: Node, seen: dict[ConnectionKey, Connection], slack: int = 1) -> list[str]:
    """The clock may have ticked between the two, `slack` times at most."""
    found = []
    for key in node.connections.keys() | seen.keys():
        wanted, got = node.connections.get(key), seen.get(key)
        if wanted is not None and got is not None and 0 <= got.expires - wanted.expires <= slack:
            wanted.expires = got.expires
        if wanted != got:
            found.append(f"connection {key}: the model has {wanted}, the kernel {got}")
    return found


def compile_shim(directory: Path) -> Path:
    source, target = Path(__file__).with_name("shim.bpf.c"), directory / "shim.bpf.o"
    clang = os.environ.get("CLANG") or shutil.which("clang-19") or "clang"
    include = f"/usr/include/{platform.machine()}-linux-gnu"
    subprocess.run([clang, "-target", "bpf", "-O2", "-g", "-isystem", include, "-c", source, "-o", target], check=True)
    return target
