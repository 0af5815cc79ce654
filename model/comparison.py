"""Two states side by side: which pairs of workloads would have another verdict in the second, and on which ports.

A visitor would get wrong: ends are told apart by identity before and after, and pods of one identity are alike; a pod's
traffic to itself never changes; pods that only one of the states has are not compared.

Where to look, of all pairs (anything else cannot change):
1. Subjects that a policy selects which changed, or whose peers or named ports did, and whose rows differ for it: with
   the peers that some row of theirs names before or after; with all others only if these are treated otherwise now.
2. Ends whose identity is another one now: with everybody.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from kilim.model.address import IPV6, Cidr, host_length, without_host_bits
from kilim.model.compile import object_key
from kilim.model.identity import ANY_PEER, HOST, REMOTE_NODE, WORLD_IPV6, world_of
from kilim.model.l4_set import L4Set
from kilim.model.nouns import decode_endpoint_identity, decode_identity
from kilim.model.reach import Reach, StateRules
from kilim.model.rules import PolicyRules, peer_matches
from kilim.model.state import State
from kilim.model.tables import EGRESS, INGRESS
from kilim.v1 import events_pb2 as pb

OWN_NODE = "host"  # as Cilium calls it: the node that the pod runs on
OTHER_NODES = "remote-node"  # all others that are not told apart
WORLD_PREFIX = Cidr(0, 0)
IPV6_WORLD_PREFIX = Cidr(IPV6, 0)


@dataclass(frozen=True, slots=True)
class End:
    """Pods (by namespace/name) that share an identity before and after; or, not `is_ours`, a prefix or the nodes."""

    before: int
    after: int
    names: tuple[str, ...]
    is_ours: bool = True


class Pair(NamedTuple):
    """Two ends (by their place in `ends`) and what passes between them; the sets differ."""

    source: int
    destination: int
    before: L4Set
    after: L4Set


class Comparison:
    """The states must stay as they are while it is used."""

    def __init__(self, before: State, after: State) -> None:
        self.old = Reach(before)
        self.new = Reach(after, self.old)
        self.ends = [*_pods(before, after), *_prefixes(before, after), *_nodes(before, after)]
        self.changed_policies = _differing(before.policies.data, after.policies.data)
        self.changed_policies |= _saying_another_thing(self.old.facts, self.new.facts)
        self._stale = _stale_subjects(before, after, self.old.facts, self.new.facts, self.changed_policies)

    def pairs(self) -> list[Pair]:
        """Ascending by the places of the ends; an end of one pod is paired with itself too, where that would differ."""
        found = {}
        for place in sorted(set(self._candidates())):
            pair = self.between(*place)
            if pair.before is not pair.after:
                found[place] = pair
        return list(found.values())

    def between(self, source: int, destination: int) -> Pair:
        one, other = self.ends[source], self.ends[destination]
        before = self.old.between(one.before, other.before, one.is_ours, other.is_ours)
        after = self.new.between(one.after, other.after, one.is_ours, other.is_ours)
        return Pair(source, destination, before, after)

    def _candidates(self) -> Iterator[tuple[int, int]]:
        users: dict[int, list[int]] = {}
        everybody = range(len(self.ends))
        for number in everybody:
            users.setdefault(self.ends[number].before, []).append(number)
        for number, end in enumerate(self.ends):
            if end.before != end.after:
                others: dict[int, list[int]] = {EGRESS: list(everybody), INGRESS: list(everybody)}
            elif end.is_ours and end.before in self._stale and self._rows_differ(end.before):
                others = {way: self._affected_peers(end.before, way, users) for way in (EGRESS, INGRESS)}
            else:
                continue
            for way, peers in others.items():
                for peer in peers:
                    if end.is_ours or self.ends[peer].is_ours:
                        yield (number, peer) if way == EGRESS else (peer, number)

    def _rows_differ(self, subject: int) -> bool:
        return self.old.rows(subject) != self.new.rows(subject)

    def _affected_peers(self, subject: int, way: int, users: dict[int, list[int]]) -> list[int]:
        if self.old.one_way(subject, way, ANY_PEER) is not self.new.one_way(subject, way, ANY_PEER):
            return list(range(len(self.ends)))
        named = self.old.named_peers(subject, way) | self.new.named_peers(subject, way)
        differing = (
            peer for peer in named if self.old.one_way(subject, way, peer) is not self.new.one_way(subject, way, peer)
        )
        return [number for peer in differing for number in users.get(peer, ())]


def name_of_node(name: str) -> str:
    """Of a node that is told apart from others."""
    return f"node:{name}"


def _nodes(before: State, after: State) -> Iterator[End]:
    yield End(HOST, HOST, (OWN_NODE,), False)
    yield End(REMOTE_NODE, REMOTE_NODE, (OTHER_NODES,), False)
    alike: dict[tuple[int, int], list[str]] = {}
    for name in sorted(before.nodes.data.keys() & after.nodes.data.keys()):
        numbers = before.nodes[name].identity or REMOTE_NODE, after.nodes[name].identity or REMOTE_NODE
        alike.setdefault(numbers, []).append(name_of_node(name))
    alike.pop((REMOTE_NODE, REMOTE_NODE), None)
    for (old, new), names in sorted(alike.items()):
        yield End(old, new, tuple(names), False)


def _pods(before: State, after: State) -> list[End]:
    alike: dict[tuple[int, int], list[str]] = {}
    for key in sorted(before.endpoints.data.keys() & after.endpoints.data.keys()):
        was, now = before.endpoints.data[key], after.endpoints.data[key]
        old = decode_endpoint_identity(was)
        alike.setdefault((old, old if was == now else decode_endpoint_identity(now)), []).append(key)
    return [End(old, new, tuple(keys)) for (old, new), keys in sorted(alike.items())]


def _prefixes(before: State, after: State) -> Iterator[End]:
    """Of both states; the world among them, of IPv6 where there is any. Each stands for its addresses that no longer
    prefix of them covers."""
    old, new = _numbers(before), _numbers(after)
    every = sorted({*old, *new, WORLD_PREFIX})
    if any(cidr.ip >= IPV6 for cidr in every) or any(WORLD_IPV6 in state.identities for state in (before, after)):
        every.append(IPV6_WORLD_PREFIX)
        every = sorted(set(every))
    for cidr in every:
        inner = [other for other in every if other != cidr and cidr.contains(other)]
        if not _is_covered(cidr, inner):
            yield End(_number_of(cidr, old), _number_of(cidr, new), (str(cidr),), False)


def _numbers(state: State) -> dict[Cidr, int]:
    found: dict[Cidr, int] = {}
    for number in sorted(state.identities.data, reverse=True):
        cidr = decode_identity(state.identities.data[number]).cidr
        if cidr is not None:
            found[cidr] = number
    return found


def _number_of(cidr: Cidr, numbers: dict[Cidr, int]) -> int:
    for prefix_len in range(cidr.prefix_len, -1, -1):
        number = numbers.get(Cidr(without_host_bits(cidr.ip, prefix_len), prefix_len))
        if number is not None:
            return number
    return world_of(cidr.ip)


def _is_covered(cidr: Cidr, inner: list[Cidr]) -> bool:
    outermost = [each for each in inner if not any(other != each and other.contains(each) for other in inner)]
    bits = host_length(cidr.ip)
    return sum(1 << (bits - each.prefix_len) for each in outermost) == 1 << (bits - cidr.prefix_len)


def _differing(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def _saying_another_thing(old: StateRules, new: StateRules) -> set[str]:
    """Keys of policies, those among them that are as before and refer to services that are not."""
    parts = old.policies.keys() | new.policies.keys()
    return {object_key(part) for part in parts if old.policies.get(part) != new.policies.get(part)}


def _stale_subjects(before: State, after: State, old: StateRules, new: StateRules, changed: set[str]) -> set[int]:
    """Whose rows may differ; a few too many is right."""
    identities = {
        number
        for number in before.identities.data.keys() | after.identities.data.keys()
        if before.identities.data.get(number) != after.identities.data.get(number)
    }
    parts = [(object_key(part), rules) for side in (old, new) for part, rules in side.policies.items()]
    hit = [rules for key, rules in parts if key in changed]
    others = [rules for key, rules in parts if key not in changed]
    hit += [rules for rules in others if _speaks_of(rules, identities, before, after)]
    if _ports(before) != _ports(after):
        hit += [rules for rules in others if rules.uses_port_names(INGRESS) or rules.uses_port_names(EGRESS)]
    hit = list(dict.fromkeys(hit))
    stale = set(identities)
    for side in (old, new):
        stale |= {number for number, labels in side.labels.items() if any(r.subjects.matches(labels) for r in hit)}
    return stale


def _speaks_of(rules: PolicyRules, identities: set[int], before: State, after: State) -> bool:
    known = [
        state.identities[number] for state in (before, after) for number in identities if number in state.identities
    ]
    peers = {peer for rule in rules.rules for peer in rule.peers or ()}
    return any(peer_matches(peer, identity) for peer in peers for identity in known)


def _ports(state: State) -> set[tuple[int, tuple[bytes, ...]]]:
    """Which identities offer which named ports."""
    found = set()
    for data in state.endpoints.data.values():
        endpoint = pb.Endpoint.FromString(data)
        if endpoint.named_ports:
            found.add((endpoint.identity, tuple(port.SerializeToString() for port in endpoint.named_ports)))
    return found
