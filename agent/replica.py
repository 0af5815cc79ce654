"""The state and this node's tables, fed with commits. PURE.

Easy to get wrong: `fold_only` leaves the tables behind the state until `finish_replay`; use it where many commits come
at once and nobody needs the rows in between.
"""

from collections.abc import Iterable, Iterator

from kilim.kvstore.commit import CHAIN_START, Commit, verify_commit
from kilim.kvstore.errors import LogBroken
from kilim.model.facts import Facts
from kilim.model.fold import fold_record
from kilim.model.node_tables import NodeTables
from kilim.model.nouns import Endpoint, decode_endpoint, decode_endpoint_identity
from kilim.model.policy_parts import TABLES_OF_POLICIES
from kilim.model.state import Change, State, endpoint_key
from kilim.model.tables import Tables, TablesDelta


class Replica:
    """What this node knows of the log up to `seq`, whose chain digest is `chain`."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.state = State()
        self.chain = CHAIN_START
        self.own_endpoints: dict[str, Endpoint] = {}
        self._node_bytes = node.encode()
        self._node_tables = NodeTables(node)
        self._tables_stale = False

    @property
    def seq(self) -> int:
        return self.state.seq

    @property
    def position(self) -> tuple[int, bytes]:
        return self.state.seq, self.chain

    @property
    def tables(self) -> Tables:
        return self._node_tables.tables

    @property
    def facts(self) -> Facts:
        return self._node_tables.facts

    def pod_at(self, ip: int, identity: int) -> str:
        """`namespace/name` of the endpoint that has both; empty: none."""
        endpoints = self.state.endpoints
        return next((key for key in self._node_tables.holders(ip) if endpoints[key].identity == identity), "")

    @property
    def state_digest(self) -> bytes:
        return self.state.digest

    @property
    def table_digest(self) -> bytes:
        return self._node_tables.digest

    def apply_commit(self, commit: Commit) -> TablesDelta:
        """Verify, fold, follow with the tables. Raises LogBroken (I3); nothing has changed then."""
        changes = self.fold_only(commit)
        if self._tables_stale:
            return self.finish_replay()
        return self._node_tables.update(self.state, changes)

    def apply_commits(self, commits: Iterable[Commit]) -> list[TablesDelta]:
        """Several as one, in the steps in which they are to be written. After a LogBroken the tables still follow what
        was folded.

        A step ends before a policy, or a service, that comes after an endpoint has changed its identity: the policy may
        speak of the new one, and in one step would be enforced while the endpoint is still known by the old.
        """
        deltas: list[TablesDelta] = []
        changes: list[Change] = []
        moved = False
        try:
            for commit in commits:
                for change in self._fold(commit):
                    if moved and change.table in TABLES_OF_POLICIES and not self._tables_stale:
                        deltas.append(self._tables_before(change, changes))
                        changes, moved = [], False
                    changes.append(change)
                    moved = moved or _changes_identity(change)
        except LogBroken:
            self._tables_stale = True
            raise
        if self._tables_stale:
            return [self.finish_replay()]
        return [*deltas, self._node_tables.update(self.state, changes)]

    def fold_only(self, commit: Commit) -> list[Change]:
        return list(self._fold(commit))

    def _fold(self, commit: Commit) -> Iterator[Change]:
        """To be taken to its end."""
        verify_commit(commit, self.state.seq + 1, self.chain)
        for offset, record in enumerate(commit.records):
            for change in fold_record(self.state, commit.first_seq + offset, record):
                if change.table == "endpoint":
                    self._follow_endpoint(change.old, change.new)
                yield change
        self.chain = commit.chain_after

    def _tables_before(self, change: Change, changes: list[Change]) -> TablesDelta:
        """Follow `changes`; `change`, which is folded already, is yet to come."""
        self.state.put(change.table, change.key, change.old)
        delta = self._node_tables.update(self.state, changes)
        self.state.put(change.table, change.key, change.new)
        return delta

    def replay_commit(self, commit: Commit) -> None:
        """`fold_only` for a long replay: the tables are made at the end, by `finish_replay`."""
        self.fold_only(commit)
        self._tables_stale = True

    def load_part(self, records: Iterable[tuple[str, bytes, bytes]]) -> None:
        """Some records of a snapshot into an empty replica; not to be believed before `finish_snapshot`."""
        self.state.load(records, 0)

    def finish_snapshot(self, seq: int, chain: bytes, state_digest: bytes) -> None:
        """All parts are here. Raises LogBroken where their records do not give the digest that was promised."""
        if self.state.digest != state_digest:
            raise LogBroken(seq, "the snapshot's records do not have the digest that it names")
        self.state.seq = seq
        self.chain = chain
        self._tables_stale = True
        for value in self.state.endpoints.data.values():
            if self._node_bytes in value:
                self._follow_endpoint(None, value)

    def finish_replay(self) -> TablesDelta:
        """Bring the tables up to the state; the difference to what they were before."""
        self._tables_stale = False
        return self._node_tables.rebuild(self.state)

    def _follow_endpoint(self, old: bytes | None, new: bytes | None) -> None:
        # Decoding costs more than the search, and most endpoints are on other nodes.
        for value, is_new in ((old, False), (new, True)):
            if value is None or self._node_bytes not in value:
                continue
            endpoint = decode_endpoint(value)
            if endpoint.node != self.node:
                continue
            key = endpoint_key(endpoint.namespace, endpoint.name)
            if is_new:
                self.own_endpoints[key] = endpoint
            else:
                self.own_endpoints.pop(key, None)


def _changes_identity(change: Change) -> bool:
    if change.table != "endpoint" or change.old is None or change.new is None:
        return False
    return decode_endpoint_identity(change.old) != decode_endpoint_identity(change.new)
