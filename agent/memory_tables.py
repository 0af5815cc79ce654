"""A datapath without a kernel: the rows of a node are kept in memory, everything else of the agent is real.

For runs with many agents on one machine, without root; endpoints are registered by whoever drives the run, as no pod is
ever connected. Easy to get wrong: rows are copied on the way in and out, as the driver of a kernel would do.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from kilim.agent.core.drift import DriftedRow
from kilim.agent.core.dump import dump_desired
from kilim.agent.datapath import Neighbours
from kilim.agent.flows import Counted, Flows
from kilim.agent.records import EVENT, Events
from kilim.model.tables import ROW_BYTES, Tables, TablesDelta, pack_rows


class MemoryTables:
    """An endpoint needs no interface here: nothing is held back."""

    def __init__(self) -> None:
        self.rows = Tables()

    def read_rows(self) -> Tables:
        return self.rows.copy()

    def has_endpoint(self, ip: int) -> bool:
        endpoint = self.rows.endpoints.get(ip)
        return endpoint is not None and endpoint[1] in self.rows.subjects

    def write(self, delta: TablesDelta, seq: int, ifindex_of: Mapping[int, int], *, allow_delete: bool = True) -> None:
        (delta if allow_delete else _without_removals(delta)).apply_to(self.rows)

    def sweep(self) -> int:
        return 0

    @property
    def held_endpoints(self) -> frozenset[int]:
        return frozenset()

    def pressure(self) -> dict[str, float]:
        return {}

    def take_local_drift(self) -> list[DriftedRow]:
        return []

    def start_reading(self) -> "MemoryReading":
        return MemoryReading(self)

    def dump(self, table: str, raw: bool = False) -> tuple[list[str], list[list[str]]]:
        return ([], []) if table in ("ct", "nat", "frag") else dump_desired(self.rows, table)


class MemoryReading:
    """The rows are those of the moment of `settle`, as with a kernel."""

    def __init__(self, tables: MemoryTables) -> None:
        self.local_drift: list[DriftedRow] = []
        self._tables = tables
        self._rows: dict[str, bytes] = {}

    def read(self) -> None: ...

    def settle(self, anyway: bool = False) -> bool:
        self._rows = {table: pack_rows(table, self._tables.rows) for table in ROW_BYTES}
        return True

    def abandon(self) -> None: ...

    def rows(self) -> dict[str, bytes]:
        return self._rows


class MemoryDatapath:
    """No packets: no records, no counts, no interfaces, nobody to reach."""

    def __init__(self) -> None:
        self.health = None
        self.moved = asyncio.Event()
        self.connections = None
        self.tables = MemoryTables()
        self.flows = Flows(_NoRecords())
        self.ifindex_of: dict[int, int] = {}

    def counters(self) -> list[Counted]:
        return []

    async def restore(self, neighbours: Neighbours) -> None: ...

    def attach(self) -> Mapping[str, object]:
        return {"datapath": "memory"}

    def work(self) -> dict[str, Coroutine[Any, Any, None]]:
        return {}


@asynccontextmanager
async def open_memory() -> AsyncIterator[MemoryDatapath]:
    yield MemoryDatapath()


class _NoRecords:
    fd = -1

    def read(self, max_records: int = 0) -> Events:
        return np.zeros(0, EVENT)


def _without_removals(delta: TablesDelta) -> TablesDelta:
    """As long as nothing may be deleted (I6): a subject that goes keeps its rows, another gets its own whole."""
    return TablesDelta(
        {key: value for key, value in delta.ipcache.items() if value is not None},
        {key: value for key, value in delta.endpoints.items() if value is not None},
        {key: value for key, value in delta.subjects.items() if value is not None},
        {subject: rows for subject, rows in delta.policy.items() if delta.subjects.get(subject, 0) is not None},
        delta.rows,
    )
