"""From policies to the rows of one subject: who may talk to it, and to whom it may talk, by identity and port.

A visitor would get wrong: a subject is an identity, not a pod; and in NORMAL no row in a direction that is not enforced
means everything passes, while no row in one that is enforced means nothing does.

What a subject gets:
1. A direction is enforced as soon as one policy that selects the subject has it; rules of all of them add up. In other
   tiers the first rule that matches counts, which the rows say by their values.
2. A subject that the log does not know is closed in both directions, without any row, in audit mode too (I9).
3. A node and the pods on it reach each other ("traffic to and from the node where a Pod is running is always allowed",
   Kubernetes, Network Policies), in all tiers, but for what policies of Cilium say: where one denies it; and of the
   node, for pods whose egress Cilium's alone isolate, where none allows it. See docs/adr/0008-node-and-its-pods.md.
   Where `allow-localhost` is policy, the way in from the node needs a rule like any other.
4. A rule without peers is for any peer (0), the world included; without ports for any protocol (0).
5. A port name is looked up at the receiver and must agree in protocol: for ingress among the named ports of all
   endpoints of the subject, for egress among those of each peer. Who has no such port is not reached by name.
6. A port range becomes the fewest prefixes that cover it.
7. A direction in which policies of NORMAL have rules but none isolates is enforced with a row for everybody that passes
   on, below all other rows: what no rule speaks of is as if NORMAL had not spoken.
8. No policy selects the health endpoints of nodes (identity 4): nothing is enforced for them, in any mode.
9. Where `enable-policy` is never, nothing is enforced and there are no rows, 2 included; where it is always, NORMAL
   isolates every subject that the log knows in both directions, rule 7 notwithstanding.

A row is dropped where another of no smaller value covers it (same direction and tier; same or any peer; same or broader
protocol and port). After that the greatest value of all rows that cover a packet is found by a look-up that takes the
longest match for the peer and for any peer: what is more specific has the greater value.
"""

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from kilim.model.cilium_network_policy import CILIUM_KINDS
from kilim.model.facts import Facts, StateFacts
from kilim.model.identity import ANY_PEER, HEALTH, HOST
from kilim.model.nouns import NamedPort
from kilim.model.rules import Origin, PolicyRules, PortName, PortRange, Rule, port_prefixes, unique
from kilim.model.settings import ALWAYS, NEVER
from kilim.model.state import State
from kilim.model.tables import (
    ADMIN,
    ALLOW,
    ANY_PROTOCOL,
    DENY,
    EGRESS,
    ENFORCE_EGRESS,
    ENFORCE_INGRESS,
    INGRESS,
    NORMAL,
    PASS,
    TIERS,
    TOP_PRECEDENCE,
    UNKNOWN_SUBJECT,
    PolicyKey,
    PolicyRows,
    row_value,
    tier_flag,
)

L4 = tuple[int, int, int]  # protocol, port, port_prefix_len
Provenance = dict[PolicyKey, tuple[Origin, ...]]

ANY_L4: L4 = (ANY_PROTOCOL, 0, 0)
CLOSED = ENFORCE_INGRESS | ENFORCE_EGRESS
PASSING_ON = row_value(PASS, 1)  # see rule 7
BUILT_IN = "built-in"  # kind of an origin that is no object
_BY_DIRECTION = (
    (INGRESS, Origin(BUILT_IN, "", "a node reaches its pods", "", 0)),
    (EGRESS, Origin(BUILT_IN, "", "a pod reaches its node", "", 0)),
)
_PASSING = Origin(BUILT_IN, "", "what no rule speaks of passes on", "", 0)
HOST_ROWS = {
    PolicyKey(direction, HOST, *ANY_L4, tier): (tier_flag(tier, direction), origin)
    for direction, origin in _BY_DIRECTION
    for tier in TIERS
}


class Resolution(NamedTuple):
    flags: int
    rows: PolicyRows
    provenance: Provenance

    def origins_of(self, keys: Iterable[PolicyKey]) -> tuple[Origin, ...]:
        """Each once, in the order of the rows."""
        return unique(origin for key in keys for origin in self.provenance.get(key, ()))


def resolve(source: State | Facts, subject: int) -> Resolution:
    """Rows of a subject with the rules that asked for each; for tables alone `resolve_rows` is cheaper."""
    facts = StateFacts(source) if isinstance(source, State) else source
    flags, rows = resolve_rows(facts, subject)
    policies = facts.policies_of(subject) if rows and facts.knows(subject) else ()
    free = host_rows(facts, flags, policies)
    origins: dict[PolicyKey, list[Origin]] = {
        key: [HOST_ROWS[key][1]] for key, value in free.items() if rows.get(key) == value
    }
    passing = passing_directions(facts, policies)
    for direction in passing:
        key = PolicyKey(direction, ANY_PEER, *ANY_L4)
        if rows.get(key) == PASSING_ON:
            origins[key] = [_PASSING]
    for policy in policies:
        for rule in policy.rules:
            value = value_of(policy, rule, passing)
            for key in set(keys_of_rule(facts, subject, rule, policy.tier)):
                if rows.get(key) == value:
                    origins.setdefault(key, []).append(policy.origin(rule))
    return Resolution(flags, rows, {key: tuple(origins[key]) for key in sorted(origins)})


def resolve_rows(facts: Facts, subject: int) -> tuple[int, PolicyRows]:
    """(flags, rows) of a subject."""
    flags, wanted = wanted_rows(facts, subject)
    return flags, without_covered(wanted)


def wanted_rows(facts: Facts, subject: int) -> tuple[int, PolicyRows]:
    """The same with the rows that others cover, so never fewer."""
    if facts.enforcement == NEVER or subject == HEALTH:
        return 0, {}
    if not facts.knows(subject):
        return CLOSED | UNKNOWN_SUBJECT, {}
    policies = facts.policies_of(subject)
    flags = enforced_flags(facts, policies)
    passing = passing_directions(facts, policies)
    wanted = _wanted(facts, subject, policies, passing)
    for key, value in host_rows(facts, flags, policies).items():
        wanted[key] = max(value, wanted.get(key, 0))
    for direction in passing:
        flags |= tier_flag(NORMAL, direction)
        key = PolicyKey(direction, ANY_PEER, *ANY_L4)
        wanted[key] = max(PASSING_ON, wanted.get(key, 0))
    return flags, wanted


def enforced_flags(facts: Facts, policies: Iterable[PolicyRules]) -> int:
    """Without those of rule 7."""
    flags = CLOSED if facts.enforcement == ALWAYS else 0
    for policy in policies:
        flags |= policy.flags
    return flags


def host_rows(facts: Facts, flags: int, policies: Sequence[PolicyRules]) -> PolicyRows:
    """Those of rule 3."""
    rows: PolicyRows = {}
    for key, (enforced, _) in HOST_ROWS.items():
        if not flags & enforced:
            continue
        normal = [policy for policy in policies if policy.tier == NORMAL]
        isolating = [policy for policy in normal if policy.flags & tier_flag(NORMAL, key.direction)]
        by_cilium_alone = bool(isolating) and all(policy.kind in CILIUM_KINDS for policy in isolating)
        free = facts.allows_localhost if key.direction == INGRESS else not by_cilium_alone
        if key.tier == NORMAL:
            if free:
                rows[key] = row_value(ALLOW, 0)
            continue
        denied = any(rule.direction == key.direction and rule.action == DENY for each in normal for rule in each.rules)
        final = key.tier != ADMIN or (free and not denied)
        rows[key] = row_value(ALLOW if final else PASS, TOP_PRECEDENCE)
    return rows


def passing_directions(facts: Facts, policies: Iterable[PolicyRules]) -> set[int]:
    """Those of rule 7."""
    if facts.enforcement == ALWAYS:
        return set()
    normal = [policy for policy in policies if policy.tier == NORMAL]
    ruled = {rule.direction for policy in normal for rule in policy.rules}
    return {each for each in ruled if not any(policy.flags & tier_flag(NORMAL, each) for policy in normal)}


def value_of(policy: PolicyRules, rule: Rule, passing: AbstractSet[int]) -> int:
    above = policy.tier == NORMAL and rule.direction in passing
    return row_value(rule.action, 2) if above else policy.row_value(rule)


def _wanted(facts: Facts, subject: int, policies: Iterable[PolicyRules], passing: AbstractSet[int]) -> PolicyRows:
    keys_of: dict[int, set[PolicyKey]] = {}  # by value
    for policy in policies:
        for rule in policy.rules:
            keys_of.setdefault(value_of(policy, rule, passing), set()).update(
                keys_of_rule(facts, subject, rule, policy.tier)
            )
    wanted: PolicyRows = {}
    for value in sorted(keys_of):  # the greatest stays
        wanted.update(dict.fromkeys(keys_of[value], value))
    return wanted


def keys_of_rule(facts: Facts, subject: int, rule: Rule, tier: int) -> Iterator[PolicyKey]:
    """May repeat itself."""
    direction = rule.direction
    names = [port for port in rule.ports or () if isinstance(port, PortName)]
    l4s = [ANY_L4] if rule.ports is None else list(l4s_of_ranges(rule))
    if names and direction == INGRESS:
        l4s += l4s_of_names(names, facts.named_ports(subject))
    peer_sets: list[Iterable[int]] = [(ANY_PEER,)]
    if rule.peers is not None:
        peer_sets = [facts.selected(peer) for peer in rule.peers]
    for peers in peer_sets:
        for protocol, port, prefix_len in l4s:
            for peer in peers:
                yield PolicyKey(direction, peer, protocol, port, prefix_len, tier)
    if names and direction == EGRESS:
        receivers = [facts.identities_with_ports()] if rule.peers is None else peer_sets
        for peers in receivers:
            for peer in peers:
                for l4 in l4s_of_names(names, facts.named_ports(peer)):
                    yield PolicyKey(direction, peer, *l4, tier)


def l4s_of_ranges(rule: Rule) -> Iterator[L4]:
    for port in rule.ports or ():
        if isinstance(port, PortRange):
            for number, prefix_len in port_prefixes(port.first, port.last):
                yield port.protocol, number, prefix_len


def l4s_of_names(names: Iterable[PortName], offered: AbstractSet[NamedPort]) -> Iterator[L4]:
    for name in names:
        for port in offered:
            if port.name == name.name and port.protocol == name.protocol and 0 < port.port <= 0xFFFF:
                yield port.protocol, port.port, 16


def without_covered(wanted: PolicyRows) -> PolicyRows:
    """The rows that remain; see the list at the top. Covering is transitive, so one pass over all rows is enough.

    What remains of a peer's rows depends on their ports and values alone, and most peers have those of another."""
    of_peers: dict[tuple[int, int, int], list[PolicyKey]] = {}
    for key in wanted:
        of_peers.setdefault((key.direction, key.peer, key.tier), []).append(key)
    kept: dict[tuple[int, bool, int, tuple[tuple[L4, int], ...]], list[int]] = {}
    rows: PolicyRows = {}
    for (direction, peer, tier), keys in of_peers.items():
        own = tuple((key[2:5], wanted[key]) for key in keys)
        pattern = direction, peer == ANY_PEER, tier, own
        if pattern not in kept:
            above = [] if peer == ANY_PEER else of_peers.get((direction, ANY_PEER, tier), [])
            kept[pattern] = uncovered(own, {key[2:5]: wanted[key] for key in above})
        for number in kept[pattern]:
            rows[keys[number]] = own[number][1]
    return rows


def uncovered(own: tuple[tuple[L4, int], ...], of_any_peer: dict[L4, int]) -> list[int]:
    """Positions in `own`, the rows of one peer in one direction and tier: those whose value is above all that cover
    them."""
    values = dict(own)
    remaining = []
    for number, (l4, value) in enumerate(own):
        broader = list(broader_l4s(l4))
        above = [values[each] for each in broader if each in values]
        above += [of_any_peer[each] for each in (l4, *broader) if each in of_any_peer]
        if all(each < value for each in above):
            remaining.append(number)
    return remaining


def broader_l4s(l4: L4) -> Iterator[L4]:
    """Everything that covers this protocol and port range, itself not among it."""
    protocol, port, prefix_len = l4
    for length in range(prefix_len):
        yield protocol, port & (0xFFFF << (16 - length)) & 0xFFFF, length
    if protocol != ANY_PROTOCOL:
        yield ANY_L4
