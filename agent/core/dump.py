"""Desired rows as text, in the columns that the kernel's dump has too, so that both can be compared. PURE."""

from kilim.model.rows import COLUMNS, cells, rows_of
from kilim.model.rows import TABLES as DESIRED
from kilim.model.tables import Tables

__all__ = ["DESIRED", "dump_desired"]

Dump = tuple[list[str], list[list[str]]]


def dump_desired(tables: Tables, table: str) -> Dump:
    """Columns and rows, sorted by key. Raises KeyError for a table that is none."""
    return list(COLUMNS[table]), [cells(table, key, value) for key, value in rows_of(tables, table).items()]
