"""The state with what decisions look things up by: addresses, numbers on a node, namespaces, CIDRs that policies name.

Easy to get wrong: every change must go through here (`fold`, `try_event`, `undo`), or the look-ups part from the state.
All is kept per change, so that a decision costs the same at 100,000 endpoints as at one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from kilim.controlplane.decide.bounds import PolicyBounds
from kilim.controlplane.decide.cidr_look_up import CidrGroups
from kilim.controlplane.decide.foretold import Foretold
from kilim.controlplane.decide.limits import Limits
from kilim.controlplane.decide.node_terms import NodeTerms, terms_of
from kilim.controlplane.decide.pool import DEFAULT_IPV4, DEFAULT_IPV6, ClusterPool
from kilim.controlplane.decide.prefixes import Bearers, PrefixTable, pod_prefixes
from kilim.model.address import Cidr, parse_cidr
from kilim.model.compile import compile_policy, named_cidrs
from kilim.model.fold import fold_event, fold_record
from kilim.model.identity import (
    FIRST_CIDR,
    FIRST_CLUSTER_LOCAL,
    FIRST_NODE,
    LAST_CIDR,
    LAST_CLUSTER_LOCAL,
    LAST_NODE,
    is_shared,
)
from kilim.model.nouns import Policy, decode_endpoint_identity, decode_node, ipv6_of
from kilim.model.policy_parts import TABLES_OF_POLICIES, Parts, PolicyParts
from kilim.model.settings import ENABLE_POLICY, LAST_IDENTITY, allows_localhost
from kilim.model.state import Change, State
from kilim.v1 import events_pb2 as pb


@dataclass(frozen=True, slots=True)
class Defaults:
    """What every replica of a cluster is started with alike; settings in the log come before them."""

    cluster: str = "default"
    cluster_pool_ipv4: ClusterPool = DEFAULT_IPV4
    cluster_pool_ipv6: ClusterPool = DEFAULT_IPV6
    limits: Limits = Limits()


class FreeNumbers:
    """Which identity of a range comes next: the first free one after a number that the state holds, round and round.

    Easy to get wrong: all between that number and the next one to come are in use. So it has to be moved only when one
    of those is released (`identity.decide_release`).
    """

    __slots__ = ("first", "last", "taken", "_after", "_run")

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.taken = 0
        self._after = first - 1
        self._run = 0  # so many after `_after` are in use, and perhaps more

    def start_after(self, number: int) -> None:
        if number != self._after:
            self._after, self._run = number, 0

    def next_free(self, state: State) -> int | None:
        while self._run <= self.last - self.first:
            number = self._at(self._run)
            if number not in state.identities:
                return number
            self._run += 1
        return None

    def up_to(self, state: State) -> int:
        """The one before the next."""
        self.next_free(state)
        return self._at(self._run - 1)

    def is_since(self, number: int, state: State) -> bool:
        """Whether it is one of those between."""
        self.next_free(state)
        return number in self and self._steps_to(number) < self._run

    def __contains__(self, number: int) -> bool:
        return self.first <= number <= self.last

    def follow(self, number: int, was: bool, is_now: bool) -> None:
        if number not in self:
            return
        self.taken += is_now - was
        if not is_now:
            self._run = min(self._run, self._steps_to(number))

    def _at(self, steps: int) -> int:
        return self.first + (self._after + 1 + steps - self.first) % (self.last - self.first + 1)

    def _steps_to(self, number: int) -> int:
        return (number - self._after - 1) % (self.last - self.first + 1)


class View:
    """A state and its look-ups, always in step."""

    def __init__(self, state: State, defaults: Defaults) -> None:
        self.state = state
        self.defaults = defaults
        self.endpoint_at: dict[int, str] = {}
        self.addresses_on: dict[str, int] = {}  # node -> how many addresses its endpoints have
        self.endpoints_on: dict[str, dict[int, str]] = {}
        self.endpoints_in: dict[str, set[str]] = {}
        self.node_at: dict[int, str] = {}
        self.cidrs_of_node: dict[str, tuple[Cidr, ...]] = {}
        self.cidr_uses: dict[Cidr, int] = {}
        self.cidr_groups = CidrGroups()
        self.pod_prefixes = PrefixTable()
        self.bearers = Bearers()
        self.local_numbers = FreeNumbers(FIRST_CLUSTER_LOCAL, LAST_CLUSTER_LOCAL)
        self.cidr_numbers = FreeNumbers(FIRST_CIDR, LAST_CIDR)
        self.node_numbers = FreeNumbers(FIRST_NODE, LAST_NODE)
        self.node_terms = NodeTerms()
        self.nodes_of_identity: dict[int, set[str]] = {}  # of identities that only nodes have
        # Only since this process follows the log: what nodes have to know before more happens (`phases.py`).
        self.allocated_at: dict[int, int] = {}  # identity of endpoints -> seq
        self.moves_seq = 0  # of the last event that gave an endpoint another identity
        self.policies_seq = 0  # of the last policy that came or went, or says something else now
        self._policies_changed = False  # with the last change of `TABLES_OF_POLICIES`
        self.foretold = Foretold()
        self.policy_parts = PolicyParts()
        self.bounds = PolicyBounds(state, defaults.limits.policy, defaults.limits.subjects)
        self._follow_settings()
        for table in (state.nodes, state.identities, state.endpoints, state.policies):
            for key, value in table.data.items():
                self._follow(Change(table.name, key, None, value))

    def fold(self, seq: int, record: bytes) -> list[Change]:
        """What the log says happened."""
        changes = self._all(fold_record(self.state, seq, record))
        self.foretold.forget_before(seq)
        for change in changes:
            self._note(seq, change)
        return changes

    def try_event(self, event: pb.Event) -> list[Change]:
        """What would happen; to be undone."""
        return self._all(fold_event(self.state, event))

    def undo(self, changes: Iterable[Change]) -> None:
        for change in reversed(list(changes)):
            self.state.undo((change,))
            self._follow(Change(change.table, change.key, change.new, change.old))

    def redo(self, changes: Iterable[Change]) -> None:
        """What was undone is so again."""
        for change in changes:
            self.state.put(change.table, change.key, change.new)
            self._follow(change)

    def parts_of(self, policy: Policy) -> Parts:
        """What a policy says, or would say, with the services there are."""
        return compile_policy(policy, self.policy_parts.services(self.state))

    def _all(self, changes: list[Change]) -> list[Change]:
        for change in changes:
            self._follow(change)
        return changes

    def _note(self, seq: int, change: Change) -> None:
        if change.table in TABLES_OF_POLICIES:
            self.policies_seq = seq if self._policies_changed else self.policies_seq
        elif change.table == "identity" and is_shared(int(change.key)):
            self.allocated_at.pop(int(change.key), None)
            if change.new is not None:
                self.allocated_at[int(change.key)] = seq
        elif change.table == "endpoint" and change.old is not None and change.new is not None:
            if decode_endpoint_identity(change.old) != decode_endpoint_identity(change.new):
                self.moves_seq = seq

    def _follow(self, change: Change) -> None:
        if change.table == "endpoint":
            self._follow_endpoint(str(change.key), change.old, change.new)
        elif change.table == "identity":
            for numbers in (self.local_numbers, self.cidr_numbers, self.node_numbers):
                numbers.follow(int(change.key), change.old is not None, change.new is not None)
            self.bearers.follow(int(change.key), change.old, change.new)
            self.cidr_groups.follow_identity(change)
            self.bounds.change_identity(change)
        elif change.table == "node":
            self._follow_node(str(change.key), change.old, change.new)
        elif change.table in TABLES_OF_POLICIES:
            self._follow_policies(change)
        elif change.table == "setting":
            self._follow_settings()

    def _follow_settings(self) -> None:
        self.bounds.change_modes(ENABLE_POLICY.read(self.state), allows_localhost(self.state))
        self.local_numbers.start_after(LAST_IDENTITY.read(self.state))

    def _follow_endpoint(self, key: str, old: bytes | None, new: bytes | None) -> None:
        was = None if old is None else pb.Endpoint.FromString(old)
        now = None if new is None else pb.Endpoint.FromString(new)
        self.bounds.change_endpoint(was, now)
        if was is not None:
            self._count_addresses(was.node, -len(_ips(was)))
            for ip in _ips(was):
                _drop(self.endpoint_at, ip, key)
            numbers = self.endpoints_on.get(was.node, {})
            _drop(numbers, was.endpoint_id, key)
            if not numbers:
                self.endpoints_on.pop(was.node, None)
            neighbours = self.endpoints_in.get(was.namespace, set())
            neighbours.discard(key)
            if not neighbours:
                self.endpoints_in.pop(was.namespace, None)
        if now is not None:
            self._count_addresses(now.node, len(_ips(now)))
            for ip in _ips(now):
                self.endpoint_at[ip] = key
            self.endpoints_on.setdefault(now.node, {})[now.endpoint_id] = key
            self.endpoints_in.setdefault(now.namespace, set()).add(key)

    def _count_addresses(self, node: str, step: int) -> None:
        self.addresses_on[node] = self.addresses_on.get(node, 0) + step
        if not self.addresses_on[node]:
            del self.addresses_on[node]

    def _follow_node(self, key: str, old: bytes | None, new: bytes | None) -> None:
        if old is not None:
            was = decode_node(old)
            for ip in was.ips:
                _drop(self.node_at, ip, key)
            self.cidrs_of_node.pop(key, None)
            names = self.nodes_of_identity.get(was.identity, set())
            names.discard(key)
            if not names:
                self.nodes_of_identity.pop(was.identity, None)
        if new is not None:
            node = decode_node(new)
            for ip in node.ips:
                self.node_at[ip] = key
            self.cidrs_of_node[key] = tuple(_readable_cidrs(node.pod_cidrs))
            if node.identity:
                self.nodes_of_identity.setdefault(node.identity, set()).add(key)

    def _follow_policies(self, change: Change) -> None:
        changed = self.policy_parts.follow(self.state, change)
        self._policies_changed = bool(changed)
        for each in changed:
            self._count_policy(each.old, each.old_parts, -1)
            self._count_policy(each.new, each.new_parts, 1)
            self.bounds.change_policy(each)
        if change.table == "policy":
            self.cidr_groups.follow_policy(change.old, change.new)

    def _count_policy(self, policy: Policy | None, parts: Parts, step: int) -> None:
        if policy is not None:
            for prefix in pod_prefixes(parts):
                self.pod_prefixes.count(prefix, step)
            self.node_terms.count(*terms_of(parts), step)
            for cidr in named_cidrs(policy, parts):
                uses = self.cidr_uses.get(cidr, 0) + step
                if uses > 0:
                    self.cidr_uses[cidr] = uses
                else:
                    self.cidr_uses.pop(cidr, None)


def _ips(endpoint: pb.Endpoint) -> tuple[int, ...]:
    return tuple(ip for ip in (endpoint.ip, ipv6_of(endpoint)) if ip)


def _drop(mapping: dict[int, str], key: int, value: str) -> None:
    if mapping.get(key) == value:
        del mapping[key]


def _readable_cidrs(texts: Iterable[str]) -> Iterable[Cidr]:
    for text in texts:
        try:
            yield parse_cidr(text)
        except ValueError:
            continue
