"""Which event last changed each row of a node's tables, followed event by event beside `NodeTables`. PURE.

Easy to get wrong: a row that nothing has changed since the tables were handed over has no event here; it is as old as
they are, or older. A row that went keeps the event that took it away.
"""

from collections.abc import Iterator

from kilim.model.rows import RowKey
from kilim.model.tables import PolicyRows, Tables, TablesDelta

_NONE: PolicyRows = {}


class Provenance:
    def __init__(self, tables: Tables) -> None:
        """`tables` as they are before the first event that is followed."""
        self._held = Tables(policy={subject: dict(rows) for subject, rows in tables.policy.items()})
        self._seqs: dict[tuple[str, RowKey], int] = {}

    def follow(self, seq: int, delta: TablesDelta) -> None:
        """`delta` is what the event `seq` changed."""
        for row in self._changed_rows(delta):
            self._seqs[row] = seq
        TablesDelta(policy=delta.policy, rows=delta.rows).apply_to(self._held)

    def seq_of(self, table: str, key: RowKey) -> int | None:
        """The event that last set or removed the row; None: none since the beginning."""
        return self._seqs.get((table, key))

    def _changed_rows(self, delta: TablesDelta) -> Iterator[tuple[str, RowKey]]:
        for prefix in delta.ipcache:
            yield "ipcache", prefix
        for ip in delta.endpoints:
            yield "endpoints", (ip,)
        for identity in delta.subjects:
            yield "subjects", (identity,)
        for subject, rows in delta.policy.items():
            before, after = self._held.policy.get(subject, _NONE), rows or _NONE
            for key in before.keys() | after.keys():
                if before.get(key) != after.get(key):
                    yield "policy", (subject, *key)
        for subject, changes in delta.rows.items():
            for key in changes:
                yield "policy", (subject, *key)
