"""The logical rows that the kernel holds at one moment, read beside an agent that goes on writing.

`read` walks the maps in a thread while their journals note each key that is written; `settle` ends that and looks these
keys up again: with them the rows are those of that moment. Easy to get wrong: `settle` belongs between two writes.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from kilim.agent.bpf import rows
from kilim.agent.bpf.addresses import ips_of
from kilim.agent.bpf.kernel_rows import (
    FLAGS_MAX,
    NO_INTERFACE,
    KernelEndpoint,
    KernelRows,
    KernelSubject,
    drifted_endpoint,
    drifted_subject,
    has_local_inputs,
)
from kilim.agent.bpf.layout import ADDR
from kilim.agent.bpf.maps import Map, Maps, Rows
from kilim.agent.core.drift import DriftedRow
from kilim.model.tables import ROW_BYTES

TABLES = tuple(ROW_BYTES)
_LOOK_UP_MAX = 2_000  # 10 us each, in which nothing else happens

# As model/tables.py packs them.
_IPCACHE = np.dtype([("ip", ADDR), ("prefix_len", "u1"), ("identity", ">u4"), ("tunnel_endpoint", ADDR)])
_ENDPOINT = np.dtype([("ip", ADDR), ("endpoint_id", ">u2"), ("identity", ">u4"), ("flags", "u1")])
_SUBJECT = np.dtype([("identity", ">u4"), ("flags", "u1")])
_POLICY = np.dtype(
    [
        ("subject", ">u4"),
        ("direction", "u1"),
        ("peer", ">u4"),
        ("protocol", "u1"),
        ("port", ">u2"),
        ("port_prefix_len", "u1"),
        ("tier", "u1"),
        ("value", ">u4"),
    ]
)


class Reading:
    """`written` gives what the driver has written; what that says of local inputs is compared (I13)."""

    def __init__(self, maps: Maps, written: Callable[[], KernelRows]) -> None:
        self._maps = maps
        self._written = written
        self._raw: dict[str, tuple[Rows, Rows]] = {}
        self._again: dict[str, tuple[Rows, Rows, Rows]] = {}
        self._endpoints: dict[int, KernelEndpoint] = {}
        self._subjects: dict[int, KernelSubject] = {}
        self.local_drift: list[DriftedRow] = []
        for table in TABLES:
            maps[table].journal.start()

    def read(self) -> None:
        """Blocking; in a thread. Raises OSError."""
        self._raw = {table: self._maps[table].read() for table in TABLES}

    def settle(self, anyway: bool = False) -> bool:
        """The moment is now. False: too much was written meanwhile, unless `anyway`; then read again."""
        noted = {table: self._maps[table].journal.stop() for table in TABLES}
        if not anyway and sum(map(len, noted.values())) > _LOOK_UP_MAX:
            return False
        self._again = {table: _look_up(self._maps[table], keys) for table, keys in noted.items() if len(keys)}
        written = self._written()
        self._endpoints, self._subjects = dict(written.endpoints), dict(written.subjects)
        return True

    def abandon(self) -> None:
        for table in TABLES:
            self._maps[table].journal.stop()

    def rows(self) -> dict[str, bytes]:
        """Packed, by table. For a thread, too: 10 ms for 100,000 rows."""
        raw = {table: _merge(*self._raw[table], *self._again.get(table, ())) for table in TABLES}
        self.local_drift = self._drifted(*raw["endpoints"], *raw["subjects"])
        return {
            "ipcache": _pack_ipcache(*raw["ipcache"]),
            "endpoints": _pack_endpoints(*raw["endpoints"]),
            "subjects": _pack_subjects(*raw["subjects"]),
            "policy": _pack_policy(*raw["policy"], *raw["subjects"]),
        }

    def _drifted(self, ips: Rows, endpoints: Rows, identities: Rows, subjects: Rows) -> list[DriftedRow]:
        found = []
        whole = has_local_inputs(endpoints)
        for ip, (ifindex, *_), is_whole in zip(ips_of(ips["ip"]), endpoints.tolist(), whole, strict=True):
            written = self._endpoints.get(ip)
            if written is not None and (written.ifindex != ifindex or not is_whole):
                found.append(drifted_endpoint(ip, written.ifindex, ifindex if is_whole else NO_INTERFACE))
        for identity, row in zip(identities["identity"].tolist(), subjects.tolist(), strict=True):
            subject, held = self._subjects.get(identity), KernelSubject(*row)
            if subject is not None and subject[:2] != held[:2]:
                found.append(drifted_subject(identity, subject, held))
        return found


def _look_up(table: Map, keys: Rows) -> tuple[Rows, Rows, Rows]:
    """(all that were noted, those that are there, their values)"""
    keys = np.unique(_plain(keys)).view(table.key_dtype)
    return keys, *table.look_up(keys)


def _merge(
    keys: Rows, values: Rows, noted: Rows | None = None, fresh_keys: Rows | None = None, fresh: Rows | None = None
) -> tuple[Rows, Rows]:
    if noted is None or fresh_keys is None or fresh is None:
        return keys, values
    # A trie whose present key is removed is walked from its beginning again: what comes twice is the same row.
    _, once = np.unique(_plain(keys), return_index=True)
    once = once[~np.isin(_plain(keys)[once], _plain(noted))]
    joined = np.concatenate([_plain(keys)[once], _plain(fresh_keys)]).view(keys.dtype)
    return joined, np.concatenate([_plain(values)[once], _plain(fresh)]).view(values.dtype)


def _void(dtype: np.dtype[np.void]) -> np.dtype[np.void]:
    return np.dtype(f"V{dtype.itemsize}")


def _plain(array: Rows) -> Rows:
    """As bytes, that can be compared and joined; see `maps._join`."""
    return np.ascontiguousarray(array).view(_void(array.dtype))


def _pack_ipcache(keys: Rows, values: Rows) -> bytes:
    packed = np.empty(len(keys), _IPCACHE)
    packed["ip"], packed["prefix_len"] = keys["ip"], rows.prefix_lens(keys)
    packed["identity"], packed["tunnel_endpoint"] = values["identity"], values["tunnel_endpoint"]
    return packed.tobytes()


def _pack_endpoints(keys: Rows, values: Rows) -> bytes:
    packed = np.empty(len(keys), _ENDPOINT)
    packed["ip"], packed["endpoint_id"], packed["identity"] = keys["ip"], values["endpoint_id"], values["identity"]
    packed["flags"] = np.minimum(values["flags"], FLAGS_MAX)
    return packed.tobytes()


def _pack_subjects(keys: Rows, values: Rows) -> bytes:
    packed = np.empty(len(keys), _SUBJECT)
    packed["identity"], packed["flags"] = keys["identity"], np.minimum(values["flags"], 255)  # we write 0..63
    return packed.tobytes()


def _pack_policy(keys: Rows, values: Rows, identities: Rows, subjects: Rows) -> bytes:
    """Of the table that each subject points at; and what no agent writes, as that may apply whatever its table is."""
    present = _present(keys, identities, subjects) | rows.foreign_policy(keys)
    keys, values = keys[present], values[present]
    packed = np.empty(len(keys), _POLICY)
    for name in ("subject", "peer", "protocol", "port"):
        packed[name] = keys[name]
    packed["direction"], packed["tier"] = keys["way"] & 1, keys["way"] >> 1
    packed["port_prefix_len"] = rows.port_prefix_lens(keys)
    packed["value"] = values["value"]
    return packed.tobytes()


def _present(keys: Rows, identities: Rows, subjects: Rows) -> npt.NDArray[np.bool_]:
    if not len(identities):
        return np.zeros(len(keys), np.bool_)
    order = np.argsort(identities["identity"])
    known, table_of = identities["identity"][order], subjects["table"][order]
    at = np.minimum(np.searchsorted(known, keys["subject"]), len(known) - 1)
    present: npt.NDArray[np.bool_] = (known[at] == keys["subject"]) & (table_of[at] == keys["table"])
    return present
