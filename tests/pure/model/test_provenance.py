"""Which event last changed a row, and rows one by one, against the plain comparison of whole tables."""

from hypothesis import HealthCheck, given, settings

from kilim.model.desired import desired_tables
from kilim.model.fold import fold_event
from kilim.model.node_tables import NodeTables
from kilim.model.provenance import Provenance
from kilim.model.rows import COLUMNS, KEY_CELLS, TABLES, RowChange, cells, differences, rows_of
from kilim.model.state import State
from kilim.model.tables import EndpointValue, PolicyKey, Tables
from kilim.v1 import events_pb2 as pb
from tests.pure.model.histories import NODES, histories

many = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@many
@given(histories)
def test_every_row_has_the_event_that_last_changed_it(history: list[pb.Event]) -> None:
    state, node_tables = State(), NodeTables(NODES[0])
    provenance = Provenance(node_tables.tables)
    wanted: dict[tuple[str, tuple[int, ...]], int] = {}
    before = desired_tables(state, NODES[0])
    for seq, event in enumerate(history, 1):
        provenance.follow(seq, node_tables.update(state, fold_event(state, event)))
        after = desired_tables(state, NODES[0])
        wanted |= {(change.table, change.key): seq for change in differences(before, after)}
        before = after
    for (table, key), seq in wanted.items():
        assert provenance.seq_of(table, key) == seq
    for table in TABLES:
        assert all((table, key) in wanted for key in rows_of(before, table))


def test_rows_of_the_beginning_have_no_event() -> None:
    tables = Tables(policy={256: {PolicyKey(0, 0, 6, 80, 16): 1}}, subjects={256: 1})
    assert Provenance(tables).seq_of("policy", (256, 0, 0, 6, 80, 16)) is None


def test_differences_are_in_order_and_of_rows() -> None:
    row, other = PolicyKey(0, 0, 6, 80, 16), PolicyKey(1, 257, 6, 80, 16)
    old = Tables(policy={256: {row: 1, other: 1}}, endpoints={1: EndpointValue(7, 256, 0)})
    new = Tables(policy={256: {row: 2, other: 1}}, ipcache={(1, 32): (256, 0)})
    assert list(differences(old, new)) == [
        RowChange("ipcache", (1, 32), None, (256, 0)),
        RowChange("endpoints", (1,), (7, 256, 0), None),
        RowChange("policy", (256, *row), (1,), (2,)),
    ]


def test_cells_are_in_the_columns() -> None:
    tables = Tables(
        {(0x0A000001, 32): (256, 0), (0x0A000000, 8): (257, 0xAC100001)},
        {0x0A000001: EndpointValue(7, 256, 1)},
        {256: 3},
        {256: {PolicyKey(1, 0, 0, 0, 0): 2}},
    )
    texts = [cells(table, key, value) for table in TABLES for key, value in rows_of(tables, table).items()]
    assert texts == [
        ["10.0.0.0/8", "257", "172.16.0.1"],
        ["10.0.0.1/32", "256", "-"],
        ["10.0.0.1", "7", "256", "audit"],
        ["256", "3"],
        ["256", "egress", "0", "0", "0", "0", "deny"],
    ]
    assert all(len(COLUMNS[table]) > KEY_CELLS[table] for table in TABLES)
