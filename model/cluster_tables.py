"""The table digest of every node at once, kept change by change: equal to `NodeTables(node).digest` for each of them.

A visitor would get wrong: no rows are kept, only sums of their hashes. A subject's rows are the same on every node, so
its weight is reckoned once and added to the nodes where it is; subjects under the same policies share one set of rows.
`steps` can be left in the middle, between two of them the digests are of neither state.
"""

from collections.abc import Iterable, Iterator
from weakref import WeakValueDictionary

from kilim.model import nouns
from kilim.model.cluster_addresses import ClusterAddresses, OwnPart
from kilim.model.digest import digest_of
from kilim.model.nouns import NamedPort, ports_of
from kilim.model.policy_index import PolicyIndex
from kilim.model.policy_parts import TABLES_OF_POLICIES, PolicyParts
from kilim.model.resolve import resolve_rows
from kilim.model.settings import ENABLE_POLICY, allows_localhost, audit_modes
from kilim.model.state import Change, State, state_as_changes
from kilim.model.tables import PolicyKey, PolicyRows, hash_policy_row, hash_subject
from kilim.v1 import events_pb2 as pb

Bearing = tuple[bool, bool, tuple[str, ...], frozenset[NamedPort]]
# It saves work, the outcome is the same in any order.
_REFERENTS_FIRST = ("setting", "node", "identity", "policy", "endpoint")
RowChanges = list[tuple[PolicyKey, int, int]]  # key, verdict before and after; 0 = no row


class _Rows:
    """What subjects of one bearing have, shared by them."""

    __slots__ = ("flags", "rows", "__weakref__")

    def __init__(self, flags: int, rows: PolicyRows) -> None:
        self.flags = flags
        self.rows = rows


class _Subject:
    __slots__ = ("on", "rows", "weight")

    def __init__(self) -> None:
        self.on: dict[OwnPart, int] = {}  # node -> how many endpoints there have this identity
        self.rows: _Rows | None = None
        self.weight = 0


class _Settling:
    """What one settling has found out already; its subjects are all resolved against the same facts."""

    __slots__ = ("resolved", "row_changes")

    def __init__(self) -> None:
        self.resolved: dict[Bearing, _Rows] = {}
        self.row_changes: dict[tuple[int, int], tuple[RowChanges, _Rows | None]] = {}


class ClusterTables:
    def __init__(self) -> None:
        self._addresses = ClusterAddresses()
        self._policies = PolicyIndex()
        self._parts = PolicyParts()
        self._subjects: dict[int, _Subject] = {}
        self._stale: set[int] = set()
        self._rows: WeakValueDictionary[Bearing, _Rows] = WeakValueDictionary()

    def digest(self, node: str) -> bytes:
        """32 bytes, also for a node of which the state knows nothing."""
        return digest_of(self.far_part + self.own_part(node))

    @property
    def far_part(self) -> int:
        """Sum of the rows as a node without endpoints has them; a node's table digest is of this and its own part."""
        return self._addresses.far

    def own_part(self, node: str) -> int:
        part = self._addresses.parts.get(node)
        return 0 if part is None else part.total

    def nodes(self) -> list[str]:
        """Those that have an own part."""
        return list(self._addresses.parts)

    def take_changed(self) -> set[str]:
        """Names of the nodes whose own part may have changed since the last call."""
        changed, self._addresses.changed = self._addresses.changed, set()
        return changed

    def fill(self, state: State) -> Iterator[None]:
        """Steps to follow all that `state` holds, into tables that hold nothing yet."""
        return self.steps(state, state_as_changes(state, _REFERENTS_FIRST))

    def update(self, state: State, changes: Iterable[Change]) -> None:
        """Follow changes that `state` already contains."""
        for _ in self.steps(state, changes):
            pass

    def steps(self, state: State, changes: Iterable[Change]) -> Iterator[None]:
        """`update` in steps of some 100 microseconds each, except where a policy or a subject has very many rows."""
        for change in changes:
            if change.table == "setting":
                yield from self._follow_settings(state)
            else:
                self._note(state, change)
            yield
        stale, self._stale = self._stale, set()
        settling = _Settling()
        for number in stale:
            subject = self._subjects.get(number)
            if subject is not None:
                self._settle(number, subject, settling)
                yield

    def _follow_settings(self, state: State) -> Iterator[None]:
        policies, modes = self._policies, (ENABLE_POLICY.read(state), allows_localhost(state))
        if modes != (policies.enforcement, policies.allows_localhost):
            policies.enforcement, policies.allows_localhost = modes
            self._stale |= self._subjects.keys()
        return self._addresses.set_audit_modes(audit_modes(state))

    def _note(self, state: State, change: Change) -> None:
        if change.table == "endpoint":
            self._change_endpoint(state, change)
        elif change.table == "identity":
            number = int(change.key)
            old = None if change.old is None else nouns.decode_identity(change.old)
            new = None if change.new is None else nouns.decode_identity(change.new)
            self._stale |= self._policies.set_identity(number, old, new)
            self._addresses.set_cidr(number, None if old is None else old.cidr, None if new is None else new.cidr)
        elif change.table in TABLES_OF_POLICIES:
            for each in self._parts.follow(state, change):
                for key, rules in each.rules():
                    self._stale |= self._policies.set_policy(key, rules)
        elif change.table == "node":
            node = None if change.new is None else nouns.decode_node(change.new)
            self._addresses.set_node(str(change.key), node)

    def _change_endpoint(self, state: State, change: Change) -> None:
        old = None if change.old is None else pb.Endpoint.FromString(change.old)
        new = None if change.new is None else pb.Endpoint.FromString(change.new)
        if new is not None:
            self._come(state, new)
        if old is not None:
            self._go(old)
        self._addresses.change_endpoint(str(change.key), old, new)

    def _come(self, state: State, endpoint: pb.Endpoint) -> None:
        number, part = endpoint.identity, self._addresses.part(endpoint.node)
        subject = self._subjects.get(number)
        if subject is None:
            subject = self._subjects[number] = _Subject()
            self._policies.track(number, state.identities[number] if number in state.identities else None)
            self._stale.add(number)
        count = subject.on.get(part, 0)
        subject.on[part] = count + 1
        if not count:
            self._addresses.add(part, subject.weight)
        if endpoint.named_ports:
            self._stale |= self._policies.change_ports(number, (), ports_of(endpoint))

    def _go(self, endpoint: pb.Endpoint) -> None:
        number, part = endpoint.identity, self._addresses.parts[endpoint.node]
        if endpoint.named_ports:
            self._stale |= self._policies.change_ports(number, ports_of(endpoint), ())
        subject = self._subjects[number]
        subject.on[part] -= 1
        if subject.on[part]:
            return
        del subject.on[part]
        self._addresses.add(part, -subject.weight)
        if not subject.on:
            del self._subjects[number]
            self._policies.untrack(number)

    def _settle(self, number: int, subject: _Subject, settling: _Settling) -> None:
        rows, before = self._resolve(number, settling), subject.rows
        if rows is before:
            return
        difference = hash_subject(number, rows.flags)
        if before is not None:
            difference -= hash_subject(number, before.flags)
        for key, old, new in _row_changes(before, rows, settling):
            if old:
                difference -= hash_policy_row(number, key, old)
            if new:
                difference += hash_policy_row(number, key, new)
        subject.rows = rows
        subject.weight += difference
        for part in subject.on:
            self._addresses.add(part, difference)

    def _resolve(self, number: int, settling: _Settling) -> _Rows:
        bearing = self._policies.bearing(number)
        rows = settling.resolved.get(bearing)
        if rows is None:
            rows = _Rows(*resolve_rows(self._policies, number))
            known = self._rows.get(bearing)
            if known is not None and (known.flags, known.rows) == (rows.flags, rows.rows):
                rows = known
            self._rows[bearing] = settling.resolved[bearing] = rows
        return rows


def _row_changes(before: _Rows | None, rows: _Rows, settling: _Settling) -> RowChanges:
    known = settling.row_changes.get((id(before), id(rows)))
    if known is None:
        old = {} if before is None else before.rows
        changes = [(key, old.get(key, 0), new) for key, new in rows.rows.items() if old.get(key) != new]
        changes += [(key, verdict, 0) for key, verdict in old.items() if key not in rows.rows]
        # `before` is held with them: its id must stay its own while it stands for it here.
        known = settling.row_changes[(id(before), id(rows))] = changes, before
    return known[0]
