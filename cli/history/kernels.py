"""What the kernels of nodes hold beside what the log says they should, row by row: what `kilim verify` prints.

Easy to get wrong: each node is compared at the event that it enforced when it was read, which is not the same for all;
so the kernels are read first, and the history is opened when it has all of these events. And a kernel's policy rows are
found by their subject's row: where that one is missing, whether they are there is not known.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from kilim.cli.client import Client
from kilim.cli.event import event_name, event_summary
from kilim.cli.failure import Failure
from kilim.cli.history.node import follow_node, node_at
from kilim.cli.history.rebuild import Moment, earliest_moment, moment_at, steps
from kilim.cli.history.source import HistorySource
from kilim.cli.history.times import format_time
from kilim.cli.nodes import digest_text
from kilim.cli.table import table as text_table
from kilim.model.address import from_mapped
from kilim.model.cluster_tables import ClusterTables
from kilim.model.digest import Multiset
from kilim.model.rows import KEY_CELLS, TABLES, RowChange, RowKey, RowValue, cells, differences
from kilim.model.tables import ROW_BYTES, ROW_FORMAT, Tables, hash_rows, unpack_rows
from kilim.v1 import controlplane_pb2 as pb
from kilim.v1.events_pb2 import Event

READ_S = 60.0
NOTHING = "nothing"
WAITS = "nothing: waits for its interface"
NAMED = 5


@dataclass(frozen=True, slots=True)
class Held:
    """What a node answered: its kernel's rows when `seq` was enforced, and its agent's digest of what it wanted."""

    node: str
    seq: int
    agent_digest: bytes
    packed: dict[str, bytes]  # by table; much smaller than the rows themselves
    local_drift: tuple[str, ...] = ()  # what its agent finds wrong with rows that are right as far as the log goes
    held_endpoints: frozenset[int] = frozenset()  # addresses whose rows wait for their interface

    @property
    def row_count(self) -> int:
        return sum(len(rows) // ROW_BYTES[table] for table, rows in self.packed.items())

    def digest(self) -> bytes:
        running = Multiset()
        for table, rows in self.packed.items():
            running.add(hash_rows(table, rows))
        return running.digest()

    def tables(self) -> Tables:
        tables = Tables()
        for table, rows in self.packed.items():
            unpack_rows(table, rows, tables)
        return tables


@dataclass(frozen=True, slots=True)
class Differing:
    change: RowChange  # old: in the kernel; new: in the log
    since: tuple[int, Event] | None  # None: no change of it since event `known_since`
    known_since: int
    unreachable: int = 0  # policy rows of a subject whose own row is missing


@dataclass(slots=True)
class NodeResult:
    """`error`: why it could not be compared."""

    node: str
    seq: int = 0
    rows: int = 0
    kernel_digest: bytes = b""
    agent_digest: bytes = b""
    log_digest: bytes = b""
    differing: list[Differing] = field(default_factory=list)
    local_drift: tuple[str, ...] = ()
    held_endpoints: frozenset[int] = frozenset()
    error: str = ""

    @property
    def is_clean(self) -> bool:
        if self.error or self.differing or self.local_drift:
            return False
        return self.agent_digest == self.kernel_digest == self.log_digest

    @property
    def outcome(self) -> str:
        parts = [self.error] if self.error else []
        if self.differing:
            parts.append(f"{len(self.differing)} row{'s differ' if len(self.differing) > 1 else ' differs'}")
        elif not self.error and self.kernel_digest != self.log_digest:
            parts.append("no row differs, but their digest does: some row is there more than once")
        if self.local_drift:
            parts.append(f"wrong beyond its rows: {_few(self.local_drift)}")
        if not self.error and self.agent_digest != self.log_digest:
            parts.append(f"the agent wants other rows than the log: its table digest is {self.agent_digest.hex()}")
        return "; ".join(parts) or "ok"


def read_held(client: Client, node: str) -> Held:
    """Raises Failure, naming why not."""
    packed: dict[str, list[bytes]] = {table: [] for table in TABLES}
    part = pb.TablesPart()
    for part in client.cluster_parts("ReadTables", pb.ReadTablesRequest(node=node), READ_S):
        if part.error:
            raise Failure(f"its kernel could not be read: {part.error}")
        if part.row_format != ROW_FORMAT:
            formats = f"it packs rows in format {part.row_format}, this kilim reads {ROW_FORMAT}"
            raise Failure(f"its agent is of another version: {formats}")
        if part.table:
            if part.table not in packed or len(part.rows) % ROW_BYTES[part.table]:
                raise Failure(f'it sent what are no rows: {len(part.rows)} bytes of table "{part.table}"')
            packed[part.table].append(part.rows)
    if not part.last:
        raise Failure("its answer ended before the last part")
    rows = {table: b"".join(each) for table, each in packed.items()}
    held = frozenset(map(from_mapped, part.held_endpoints))
    return Held(node, part.seq, part.table_digest, rows, tuple(part.local_drift), held)


def compare(source: HistorySource, held: Sequence[Held]) -> Iterator[NodeResult]:
    """In the order of what they had enforced, as the log is folded once."""
    moment: Moment | None = None
    digests = ClusterTables()
    for each in sorted(held, key=lambda each: (each.seq, each.node)):
        if moment is None:
            moment = moment_at(source, each.seq)
            for _ in digests.fill(moment.state):
                pass
        for step in steps(source, moment, each.seq):
            moment = moment._replace(chain=step.chain)
            digests.update(moment.state, step.changes)
        result = NodeResult(each.node, each.seq, each.row_count, each.digest(), each.agent_digest)
        result.local_drift, result.held_endpoints = each.local_drift, each.held_endpoints
        result.log_digest = digests.digest(each.node)
        if result.kernel_digest != result.log_digest:  # only now each row is looked at
            result.log_digest, result.differing = _differing(source, moment, each)
        yield result


def _differing(source: HistorySource, moment: Moment, held: Held) -> tuple[bytes, list[Differing]]:
    """The log's digest, and the rows that differ."""
    wanted = node_at(moment, held.node)
    _, _, events = follow_node(source, earliest_moment(source, held.seq), held.node, held.seq)
    changes, unreachable = _reachable(list(differences(held.tables(), wanted.tables)))
    return wanted.table_digest, [
        Differing(
            change,
            events.of(change.table, change.key),
            events.after_seq,
            unreachable[change.key[0]] if change.table == "subjects" else 0,
        )
        for change in changes
    ]


def _reachable(changes: Sequence[RowChange]) -> tuple[list[RowChange], Counter[int]]:
    """Those that are known to differ, and by subject how many policy rows could not be looked for."""
    lost = {change.key[0] for change in changes if change.table == "subjects" and change.old is None}
    unreachable: Counter[int] = Counter()
    reachable = []
    for change in changes:
        if change.table == "policy" and change.old is None and change.key[0] in lost:
            unreachable[change.key[0]] += 1
        else:
            reachable.append(change)
    return reachable, unreachable


def result_data(result: NodeResult) -> dict[str, Any]:
    if result.error:
        return {"node": result.node, "ok": False, "error": result.error}
    return {
        "node": result.node,
        "ok": result.is_clean,
        "seq": result.seq,
        "rows": result.rows,
        "kernel_digest": result.kernel_digest.hex(),
        "agent_digest": result.agent_digest.hex(),
        "log_digest": result.log_digest.hex(),
        "differences": [_difference_data(each, result.held_endpoints) for each in result.differing],
        "local_drift": list(result.local_drift),
    }


def result_lines(results: Sequence[NodeResult], down: Sequence[str]) -> Iterator[str]:
    body = [
        [
            each.node,
            each.seq or None,
            each.rows if not each.error else None,
            digest_text(each.kernel_digest),
            each.outcome,
        ]
        for each in results
    ]
    body += [[node, None, None, None, "down: not compared"] for node in down]
    yield text_table(["NODE", "SEQ", "ROWS", "KERNEL DIGEST", "RESULT"], sorted(body, key=lambda row: str(row[0])))
    rows = [[each.node, *_difference_cells(one, each.held_endpoints)] for each in results for one in each.differing]
    if rows:
        yield ""
        yield text_table(["NODE", "TABLE", "KEY", "KERNEL HAS", "LOG SAYS", "SINCE", "TIME", "ACTOR", "WHAT"], rows)


def _few(texts: Sequence[str]) -> str:
    more = len(texts) - NAMED
    return ", ".join(texts[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _waits(one: Differing, held_endpoints: Collection[int]) -> bool:
    """It is to be there as soon as its interface is; until then the endpoint is closed."""
    table, key, found, _ = one.change
    return table == "endpoints" and found is None and key[0] in held_endpoints


def _difference_cells(one: Differing, held_endpoints: Collection[int]) -> list[str]:
    table, key, found, wanted = one.change
    texts = [
        table,
        _key_text(table, key, found or wanted),
        _kernel_text(one, held_endpoints),
        _value_text(table, key, wanted),
    ]
    if one.since is None:
        return [*texts, f"<={one.known_since}" if wanted is not None else "never", "", "", ""]
    seq, event = one.since
    return [*texts, str(seq), format_time(event.time_ns), event.actor, f"{event_name(event)} {event_summary(event)}"]


def _kernel_text(one: Differing, held_endpoints: Collection[int]) -> str:
    if _waits(one, held_endpoints):
        return WAITS
    if one.unreachable:
        rows = f"{one.unreachable} policy row{'s' if one.unreachable > 1 else ''}"
        return f"{NOTHING}: its {rows} cannot be reached without it"
    return _value_text(one.change.table, one.change.key, one.change.old)


def _difference_data(one: Differing, held_endpoints: Collection[int]) -> dict[str, Any]:
    table, key, found, wanted = one.change
    data: dict[str, Any] = {
        "table": table,
        "key": _key_text(table, key, found or wanted),
        "kernel": None if found is None else _value_text(table, key, found),
        "log": None if wanted is None else _value_text(table, key, wanted),
        "since": None,
    }
    if _waits(one, held_endpoints):
        data["waits"] = "for its interface"
    if one.unreachable:
        data["unreachable_policy_rows"] = one.unreachable
    if one.since is not None:
        seq, event = one.since
        data["since"] = {
            "seq": seq, "time": format_time(event.time_ns), "actor": event.actor, "cause": event.cause,
            "event": event_name(event), "what": event_summary(event),
        }  # fmt: skip
    return data


def _key_text(table: str, key: RowKey, value: RowValue | None) -> str:
    assert value is not None
    return " ".join(cells(table, key, value)[: KEY_CELLS[table]])


def _value_text(table: str, key: RowKey, value: RowValue | None) -> str:
    return NOTHING if value is None else " ".join(cells(table, key, value)[KEY_CELLS[table] :])
