"""The tables of one node, kept equal to `desired_tables(state, node)` change by change.

A visitor would get wrong: `update` is called after the state has folded the changes, and gives the difference that the
changes made together; the same changes in other batches end in the same tables.

What a change touches:
1. An endpoint: its address; if it is or was on this node, its identity as a subject; if its named ports or its identity
   change, the subjects whose policies name ports that it offers.
2. An identity: its prefix; itself as a subject; of the subjects whose policies' peers begin or cease to select it the
   rows of that peer (`peer_rows.py`), not the others.
3. A policy: of the subjects that it selects or selected the rows of the peers of its rules; all rows of a subject whose
   enforced directions or rows for any peer differ then. A service or a slice of one: the policies that refer to it,
   where what they come to is another thing now.
4. A node: its address, old and new, and the rows of its endpoints; its identity, its address.
5. The setting `enable-policy`: all subjects; `policy-audit-mode`: the endpoints of this node.
6. A namespace, pod or other setting: nothing; they act through identities and endpoints, which events of their own
   change.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from kilim.model import nouns
from kilim.model.addresses import Addresses
from kilim.model.facts import Facts
from kilim.model.identity import RESERVED
from kilim.model.nouns import ports_of
from kilim.model.peer_rows import FewPeers, changed_among, changed_rows
from kilim.model.policy_index import NOTHING, PolicyIndex
from kilim.model.policy_parts import TABLES_OF_POLICIES, PolicyParts
from kilim.model.resolve import resolve_rows
from kilim.model.rules import PolicyRules
from kilim.model.settings import ENABLE_POLICY, allows_localhost, audits
from kilim.model.state import Change, State, state_as_changes
from kilim.model.tables import EGRESS, PolicyRows, RowChanges, Tables, TablesDelta, TablesDigest
from kilim.v1 import events_pb2 as pb

_FEW_PEERS = 32  # of a subject; more of them are made together


class NodeTables:
    def __init__(self, node: str) -> None:
        self.node = node
        self.tables = Tables()
        self._digest = TablesDigest()
        self._addresses = Addresses(node)
        self._policies = PolicyIndex()
        self._parts = PolicyParts()
        self._local: dict[int, int] = {}  # subject -> how many endpoints here have it
        self._counts_ports = False
        self._stale: set[int] = set()  # subjects whose rows are to be made anew
        # subject -> peers whose rows alone are. For each the policies that it came into reach of, or went out of, where
        # it came or went as a whole.
        self._reselected: dict[int, dict[int, AbstractSet[str] | None]] = {}
        self._repoliced: dict[int, frozenset[int]] = {}  # the same where policies of the subject changed

    @property
    def digest(self) -> bytes:
        """32 bytes over all rows; equals `self.tables.digest()`."""
        return self._digest.digest()

    @property
    def facts(self) -> Facts:
        """What policy rests on, of the subjects that are here; true until the next change."""
        return self._policies

    def holders(self, ip: int) -> list[str]:
        """Keys of the endpoints, here or elsewhere, with this address."""
        return self._addresses.holders(ip)

    def rebuild(self, state: State) -> TablesDelta:
        """Start over from the whole state; gives what differs from the tables before."""
        fresh = NodeTables(self.node)
        fresh._fill(state)
        delta = TablesDelta.between(self.tables, fresh.tables)
        self.__dict__.update(fresh.__dict__)
        return delta

    def update(self, state: State, changes: Iterable[Change]) -> TablesDelta:
        """Follow changes that `state` already contains."""
        self._note(state, changes)
        return self._settle(state)

    def _fill(self, state: State) -> None:
        """Follow all that `state` contains. Referents first: it saves work, the outcome is the same in any order."""
        self._follow_settings(state)
        self._note(state, state_as_changes(state, ("node", "identity", "policy")))
        parse, add, here = pb.Endpoint.FromString, self._addresses.add_endpoint, self.node
        for key, data in state.endpoints.data.items():
            endpoint = parse(data)
            node = endpoint.node
            add(key, node, endpoint)
            if node == here:
                self._come(state, endpoint.identity)
        self._settle(state)

    def _note(self, state: State, changes: Iterable[Change]) -> None:
        for change in changes:
            if change.table == "endpoint":
                self._change_endpoint(state, change)
            elif change.table == "identity":
                self._change_identity(change)
            elif change.table in TABLES_OF_POLICIES:
                for each in self._parts.follow(state, change):
                    for key, rules in each.rules():
                        self._change_policy(key, rules)
            elif change.table == "node":
                node = None if change.new is None else nouns.decode_node(change.new)
                self._addresses.set_node(str(change.key), node)
            elif change.table == "setting":
                self._follow_settings(state)

    def _follow_settings(self, state: State) -> None:
        policies, modes = self._policies, (ENABLE_POLICY.read(state), allows_localhost(state))
        if modes != (policies.enforcement, policies.allows_localhost):
            policies.enforcement, policies.allows_localhost = modes
            self._stale |= self._local.keys()
        self._addresses.set_audit_mode(audits(state, self.node))

    def _settle(self, state: State) -> TablesDelta:
        self._settle_ports(state)
        delta = TablesDelta()
        self._addresses.settle(state, self.tables, delta)
        self._settle_subjects(delta)
        self._digest.apply(self.tables, delta)
        delta.apply_to(self.tables)
        return delta

    def _change_endpoint(self, state: State, change: Change) -> None:
        key = str(change.key)
        old = None if change.old is None else pb.Endpoint.FromString(change.old)
        new = None if change.new is None else pb.Endpoint.FromString(change.new)
        if old is not None:
            self._addresses.remove_endpoint(key, old.node, old)
        if new is not None:
            self._add_endpoint(state, key, new)
        if old is not None:
            if old.node == self.node:
                self._go(old.identity)
            if self._counts_ports and old.named_ports:
                self._stale |= self._policies.change_ports(old.identity, ports_of(old), ())

    def _add_endpoint(self, state: State, key: str, new: pb.Endpoint) -> None:
        node = new.node
        self._addresses.add_endpoint(key, node, new)
        if node == self.node:
            self._come(state, new.identity)
        if self._counts_ports:
            self._add_ports(new)

    def _add_ports(self, new: pb.Endpoint) -> None:
        if new.named_ports:
            self._stale |= self._policies.change_ports(new.identity, (), ports_of(new))

    def _settle_ports(self, state: State) -> None:
        """Named ports are counted only while a policy names some, from the state when the first one does.

        The subjects of that first policy are stale already.
        """
        if self._policies.needs_ports == self._counts_ports:
            return
        self._counts_ports = self._policies.needs_ports
        self._policies.forget_ports()
        if self._counts_ports:
            for data in state.endpoints.data.values():
                self._add_ports(pb.Endpoint.FromString(data))

    def _change_identity(self, change: Change) -> None:
        number = int(change.key)
        old = None if change.old is None else nouns.decode_identity(change.old)
        new = None if change.new is None else nouns.decode_identity(change.new)
        affected, users = self._policies.reselect(number, old, new)
        whole = (old is None) != (new is None)
        for subject in affected:
            if subject == number or number in RESERVED:
                self._stale.add(subject)
            else:
                peers = self._reselected.setdefault(subject, {})
                peers[number] = users if whole and number not in peers else None
        self._addresses.set_cidr(number, old.cidr if old is not None else None, new.cidr if new is not None else None)

    def _change_policy(self, key: str, rules: PolicyRules | None) -> None:
        before = self._policies.reach_of(key)
        affected = self._policies.set_policy(key, rules)
        after = self._policies.reach_of(key)
        if before is None or after is None:
            self._stale |= affected
            return
        peers = before | after
        for subject in affected:
            self._repoliced[subject] = self._repoliced.get(subject, NOTHING) | peers

    def _come(self, state: State, subject: int) -> None:
        count = self._local.get(subject, 0)
        self._local[subject] = count + 1
        if not count:
            self._policies.track(subject, state.identities[subject] if subject in state.identities else None)
            self._stale.add(subject)

    def _go(self, subject: int) -> None:
        self._local[subject] -= 1
        if not self._local[subject]:
            del self._local[subject]
            self._policies.untrack(subject)
            self._stale.add(subject)

    def _settle_subjects(self, delta: TablesDelta) -> None:
        for subject, peers in self._reselected.items():
            if len(peers) > _FEW_PEERS or subject in self._repoliced:
                self._repoliced[subject] = self._repoliced.get(subject, NOTHING).union(peers)
            elif subject not in self._stale:
                self._settle_peers(subject, peers, delta)
        self._settle_repoliced(delta)
        self._reselected, self._repoliced = {}, {}
        for subject in self._stale:
            flags: int | None = None
            rows: PolicyRows = {}
            if subject in self._local:
                flags, rows = resolve_rows(self._policies, subject)
            if self.tables.subjects.get(subject) != flags:
                delta.subjects[subject] = flags
            if self.tables.policy.get(subject, {}) != rows:
                delta.policy[subject] = rows or None
        self._stale = set()

    def _settle_repoliced(self, delta: TablesDelta) -> None:
        """Subjects are shared out to the peers that they have in common, which are looked up once."""
        among: dict[frozenset[int], FewPeers] = {}
        for subject, peers in self._repoliced.items():
            if subject in self._stale:
                continue
            few = among.get(peers)
            if few is None:
                few = among[peers] = FewPeers(self._policies, peers)
            held = self.tables.policy.get(subject, {})
            changes = changed_among(few, subject, self.tables.subjects.get(subject), held)
            if changes is None:
                self._stale.add(subject)
            elif changes:
                delta.rows[subject] = changes

    def _settle_peers(self, subject: int, peers: Mapping[int, AbstractSet[str] | None], delta: TablesDelta) -> None:
        held = self.tables.policy.get(subject, {})
        changes: RowChanges = {}
        for peer, users in peers.items():
            changes |= changed_rows(self._policies, subject, peer, held, self._among(subject, users))
        if changes:
            delta.rows[subject] = changes

    def _among(self, subject: int, users: AbstractSet[str] | None) -> list[PolicyRules] | None:
        """Those of the subject, unless others give rows to a peer that they do not select: by names of its ports."""
        policies, keys = self._policies, self._policies.keys_of(subject)
        named = policies.users_of_names & keys
        if users is None or any(policies.policy(key).uses_port_names(EGRESS) for key in named):
            return None
        return [policies.policy(key) for key in users & keys]
