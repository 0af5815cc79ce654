"""The tables of one node as of an event, and which events made the rows what they are.

Easy to get wrong: nothing here may depend on where the history was read (I4); only how far back events are known does.
"""

from dataclasses import dataclass, field

from kilim.cli.failure import Failure
from kilim.cli.history.rebuild import Moment, steps
from kilim.cli.history.source import HistorySource
from kilim.model.node_tables import NodeTables
from kilim.model.provenance import Provenance
from kilim.model.rows import RowKey
from kilim.model.state import State
from kilim.model.tables import Tables
from kilim.v1.events_pb2 import Event


@dataclass(frozen=True, slots=True)
class NodeMoment:
    node: str
    seq: int
    chain: bytes
    state_digest: bytes
    table_digest: bytes
    tables: Tables


@dataclass(slots=True)
class RowEvents:
    """The event that last changed each row, for rows that changed after `after_seq`."""

    after_seq: int
    provenance: Provenance
    events: dict[int, Event] = field(default_factory=dict)

    def of(self, table: str, key: RowKey) -> tuple[int, Event] | None:
        seq = self.provenance.seq_of(table, key)
        return None if seq is None else (seq, self.events[seq])


def knows_node(state: State, node: str) -> bool:
    return node in state.nodes or any(endpoint.node == node for endpoint in state.endpoints.values())


def check_node(state: State, node: str) -> None:
    if not knows_node(state, node):
        names = ", ".join(sorted(state.nodes)) or "none"
        raise Failure(f'no node "{node}" as of event {state.seq}; there is {names}')


def node_at(moment: Moment, node: str) -> NodeMoment:
    tables = NodeTables(node)
    tables.rebuild(moment.state)
    return _moment(moment.state, moment.chain, tables)


def follow_node(
    source: HistorySource, start: Moment, node: str, to_seq: int
) -> tuple[NodeMoment, NodeMoment, RowEvents]:
    """The tables at the start and at `to_seq`, and the events between that last changed each row. Folds on in place."""
    tables = NodeTables(node)
    tables.rebuild(start.state)
    before = _moment(start.state, start.chain, tables)
    made = RowEvents(start.state.seq, Provenance(tables.tables))
    chain = start.chain
    for step in steps(source, start, to_seq):
        chain = step.chain
        delta = tables.update(start.state, step.changes)
        if delta:
            made.provenance.follow(step.seq, delta)
            made.events[step.seq] = step.event
    return before, _moment(start.state, chain, tables), made


def _moment(state: State, chain: bytes, tables: NodeTables) -> NodeMoment:
    """A copy: both go on."""
    return NodeMoment(tables.node, state.seq, chain, state.digest, tables.digest, tables.tables.copy())
