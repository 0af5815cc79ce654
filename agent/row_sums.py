"""The digest of packed rows, over and over: rows that were there the last time are not hashed again. PURE.

Easy to get wrong: which rows are new is found by fingerprints of 64 bits, whose factors no one outside of this process
knows; what is hashed, and so what the digest says, are the rows themselves.
"""

import secrets
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kilim.model.digest import Multiset
from kilim.model.tables import ROW_BYTES, hash_rows

_WORDS = 5  # of 8 bytes; no row is longer


class _Seen(NamedTuple):
    rows: bytes
    order: npt.NDArray[np.intp]  # of the rows by fingerprint
    fingerprints: npt.NDArray[np.uint64]  # in that order
    total: int


_NOTHING = _Seen(b"", np.zeros(0, np.intp), np.zeros(0, np.uint64), 0)


class RowSums:
    def __init__(self) -> None:
        self._factors = np.array([secrets.randbits(64) | 1 for _ in range(_WORDS)], np.uint64)
        self._seen = dict.fromkeys(ROW_BYTES, _NOTHING)

    def digest(self, rows: dict[str, bytes]) -> Multiset:
        """Over the rows of all tables, as `Tables.digest` has it."""
        running = Multiset()
        for table, data in rows.items():
            if data != self._seen[table].rows:
                self._seen[table] = self._follow(table, data)
            running.add(self._seen[table].total)
        return running

    def _follow(self, table: str, data: bytes) -> _Seen:
        before, fingerprints = self._seen[table], self._fingerprints(table, data)
        order = np.argsort(fingerprints)
        now = _Seen(data, order, fingerprints[order], 0)
        gone, come = _only_in(before, now, ROW_BYTES[table]), _only_in(now, before, ROW_BYTES[table])
        return now._replace(total=before.total - hash_rows(table, gone) + hash_rows(table, come))

    def _fingerprints(self, table: str, data: bytes) -> npt.NDArray[np.uint64]:
        size = ROW_BYTES[table]
        octets = np.frombuffer(data, np.uint8).reshape(-1, size)
        padded = np.zeros((len(octets), _WORDS * 8), np.uint8)
        padded[:, :size] = octets
        mixed: npt.NDArray[np.uint64] = (padded.view(np.uint64) * self._factors).sum(axis=1, dtype=np.uint64)
        return mixed


def _only_in(one: _Seen, other: _Seen, row_bytes: int) -> bytes:
    """What is there twice and in `other` once is in it once."""
    rows = np.frombuffer(one.rows, np.uint8).reshape(-1, row_bytes)
    if not other.rows:
        return one.rows
    times = np.arange(len(one.fingerprints)) - np.searchsorted(one.fingerprints, one.fingerprints)
    start = np.searchsorted(other.fingerprints, one.fingerprints)
    times_there = np.searchsorted(other.fingerprints, one.fingerprints, side="right") - start
    only: bytes = rows[one.order[times >= times_there]].tobytes()
    return only
