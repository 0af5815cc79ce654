"""What a state lets through between any two identities, made when it is asked for: policy alone, whatever the nodes.

A visitor would get wrong: this agrees with the tables of the nodes where every address has one holder, as the control
plane sees to; ends that are not endpoints (nodes, prefixes, the world) close nothing themselves.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from heapq import merge
from operator import itemgetter

from kilim.model.compile import compile_policy, part_key
from kilim.model.identity import ANY_PEER, RESERVED
from kilim.model.l4_set import EVERYTHING, NOTHING, L4Set, allowed_by, both
from kilim.model.labels import NAMESPACE, label_map
from kilim.model.nouns import NamedPort, decode_identity, decode_policy, ports_of
from kilim.model.policy_index import PolicyIndex
from kilim.model.resolve import Resolution, resolve, resolve_rows
from kilim.model.rules import Peer, PolicyRules
from kilim.model.service_index import Services
from kilim.model.settings import ENABLE_POLICY, allows_localhost
from kilim.model.state import State
from kilim.model.tables import EGRESS, INGRESS, PolicyRows, direction_flags
from kilim.v1 import events_pb2 as pb


class StateRules:
    """`Facts` of one state, with the policies of a subject found by its namespace. The state must stay as it is."""

    def __init__(self, state: State) -> None:
        self._index = PolicyIndex()
        self.enforcement = ENABLE_POLICY.read(state)
        self.allows_localhost = allows_localhost(state)
        self.labels = {number: label_map(each.labels) for number, each in RESERVED.items()}
        self.policies: dict[str, PolicyRules] = {}
        self._of_namespace: dict[str, list[tuple[str, PolicyRules]]] = {}
        for number, data in state.identities.data.items():
            identity = decode_identity(data)
            self._index.set_identity(number, None, identity)
            self.labels[number] = label_map(identity.labels)
        services = Services(state)
        for key in sorted(state.policies.data):
            for number, rules in enumerate(compile_policy(decode_policy(state.policies.data[key]), services)):
                self._index.set_policy(part_key(key, number), rules)
                self.policies[part_key(key, number)] = rules
                self._of_namespace.setdefault(rules.namespace, []).append((key, rules))
        if self._index.needs_ports:
            for data in state.endpoints.data.values():
                endpoint = pb.Endpoint.FromString(data)
                ports = ports_of(endpoint)
                if ports:
                    self._index.change_ports(endpoint.identity, (), ports)

    def knows(self, identity: int) -> bool:
        return identity in self.labels

    def policies_of(self, subject: int) -> Sequence[PolicyRules]:
        labels = self.labels[subject]
        own = self._of_namespace.get(labels.get(NAMESPACE, ""), [])
        of_all = self._of_namespace.get("", []) if own is not self._of_namespace.get("") else []
        return [policy for _, policy in merge(own, of_all, key=itemgetter(0)) if policy.subjects.matches(labels)]

    def selected(self, peer: Peer) -> AbstractSet[int]:
        return self._index.selected(peer)

    def named_ports(self, identity: int) -> AbstractSet[NamedPort]:
        return self._index.named_ports(identity)

    def identities_with_ports(self) -> Iterable[int]:
        return self._index.identities_with_ports()


class _Subject:
    """Rows of one subject by direction and peer."""

    def __init__(self, flags: int, rows: PolicyRows) -> None:
        self.flags = flags
        self.rows = rows
        self.of_peer: dict[tuple[int, int], PolicyRows] = {}
        for key, verdict in rows.items():
            self.of_peer.setdefault((key.direction, key.peer), {})[key] = verdict
        self.sets: dict[tuple[int, int], L4Set] = {}
        self.named: dict[int, set[int]] = {}


class Reach:
    """Sets that are equal are the same object, so that `is` compares them, also with those of a Reach that shares."""

    def __init__(self, state: State, shared: "Reach | None" = None) -> None:
        self.facts = StateRules(state)
        self._subjects: dict[int, _Subject] = {}
        self._resolutions: dict[int, Resolution] = {}
        self._same: dict[L4Set, L4Set] = shared._same if shared else {EVERYTHING: EVERYTHING, NOTHING: NOTHING}
        self._met: dict[tuple[int, int], L4Set] = shared._met if shared else {}

    def between(self, sender: int, receiver: int, sender_is_ours: bool = True, receiver_is_ours: bool = True) -> L4Set:
        one = self.one_way(sender, EGRESS, receiver) if sender_is_ours else EVERYTHING
        other = self.one_way(receiver, INGRESS, sender) if receiver_is_ours else EVERYTHING
        return self.meet(one, other)

    def one_way(self, subject: int, direction: int, peer: int) -> L4Set:
        """What the rows of `subject` let through in a direction."""
        each = self._subject(subject)
        if not each.flags & direction_flags(direction):
            return EVERYTHING
        own = each.of_peer.get((direction, peer))
        at = (direction, peer if own else ANY_PEER)
        if at not in each.sets:
            rows = {**(own or {}), **each.of_peer.get((direction, ANY_PEER), {})}
            each.sets[at] = self.shared(allowed_by(each.flags, rows, direction, at[1]))
        return each.sets[at]

    def named_peers(self, subject: int, direction: int) -> AbstractSet[int]:
        """Those that rows of the subject speak of; to it, all others are alike."""
        each = self._subject(subject)
        if direction not in each.named:
            each.named[direction] = {peer for way, peer in each.of_peer if way == direction}
        return each.named[direction]

    def meet(self, one: L4Set, other: L4Set) -> L4Set:
        key = (id(one), id(other))  # shared sets live as long as this does
        if key not in self._met:
            self._met[key] = self.shared(both(one, other))
        return self._met[key]

    def shared(self, one: L4Set) -> L4Set:
        return self._same.setdefault(one, one)

    def resolution(self, subject: int) -> Resolution:
        """With the rules that asked for each row."""
        if subject not in self._resolutions:
            self._resolutions[subject] = resolve(self.facts, subject)
        return self._resolutions[subject]

    def rows(self, subject: int) -> tuple[int, PolicyRows]:
        found = self._subject(subject)
        return found.flags, found.rows

    def _subject(self, subject: int) -> _Subject:
        if subject not in self._subjects:
            self._subjects[subject] = _Subject(*resolve_rows(self.facts, subject))
        return self._subjects[subject]
