"""What the kernel held where the agent had written something else, row by row, in words. PURE."""

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from kilim.model.address import parse_ip
from kilim.model.rows import KEY_CELLS, RowChange, RowKey, RowValue, cells, differences
from kilim.model.tables import Tables, TablesDelta

NOTHING = "nothing"


class DriftedRow(NamedTuple):
    table: str
    key: str
    found: str
    wanted: str

    def is_held_back(self, endpoints: Collection[int]) -> bool:
        """Not written yet, as its interface is not there."""
        return self.table == "endpoints" and self.found == NOTHING and parse_ip(self.key) in endpoints

    def __str__(self) -> str:
        return f"{self.table} {self.key}: found {self.found}, wanted {self.wanted}"


def drifted_rows(held: Tables, wanted: Tables, delta: TablesDelta) -> Iterator[DriftedRow]:
    """`delta` is what leads from `held` to `wanted`."""
    for change in differences(_only(held, delta), _only(wanted, delta)):
        yield in_words(change)


def in_words(change: RowChange) -> DriftedRow:
    table, key, old, new = change
    some = old if old is not None else new
    assert some is not None
    return DriftedRow(table, " ".join(cells(table, key, some)[: KEY_CELLS[table]]), *_values(table, key, (old, new)))


def _values(table: str, key: RowKey, values: Iterable[RowValue | None]) -> list[str]:
    return [NOTHING if value is None else " ".join(cells(table, key, value)[KEY_CELLS[table] :]) for value in values]


def _only(tables: Tables, delta: TablesDelta) -> Tables:
    return Tables(
        {key: tables.ipcache[key] for key in delta.ipcache if key in tables.ipcache},
        {key: tables.endpoints[key] for key in delta.endpoints if key in tables.endpoints},
        {key: tables.subjects[key] for key in delta.subjects if key in tables.subjects},
        {key: tables.policy[key] for key in delta.policy if key in tables.policy},
    )
