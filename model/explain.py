"""Why the first packet of a connection passes or not: the rows that decide it on each node, and who asked for them.

A visitor would get wrong: both directions are explained even where the first one drops already, and a row that is not
there decides as much as one that is (None in an entry: an address without one is the world).
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from kilim.model.address import format_ip
from kilim.model.facts import Facts, StateFacts
from kilim.model.identity import world_of
from kilim.model.resolve import resolve
from kilim.model.rules import Origin, PolicyRules
from kilim.model.state import State
from kilim.model.tables import EGRESS, ENFORCE_EGRESS, ENFORCE_INGRESS, INGRESS, PolicyKey, Tables, direction_flags
from kilim.model.verdict import (
    ALLOWED,
    NO_SUBJECT,
    Verdict,
    ipcache_match,
    is_audited,
    is_unknown,
    judge_tiers,
    verdict,
)


class Place(NamedTuple):
    """One end; `node` is None where the address is no endpoint of ours."""

    ip: int
    node: str | None = None


class Flow(NamedTuple):
    source: Place
    destination: Place
    protocol: int
    port: int  # of the destination; ICMP, ICMPv6: the type


class Row(NamedTuple):
    """A row of a table of a node; of `policy` the key is (subject, PolicyKey)."""

    node: str
    table: str
    key: Hashable

    def value(self, tables: Tables) -> Any:
        """None where there is no such row."""
        if self.table == "policy":
            subject, policy_key = cast("tuple[int, PolicyKey]", self.key)
            return tables.policy.get(subject, {}).get(policy_key)
        return getattr(tables, self.table).get(self.key)


class Entry(NamedTuple):
    """`row` None: no row covers what was looked up, `sought`."""

    sought: str
    row: Row | None
    value: Any = None


class Match(NamedTuple):
    """A policy row that covers the packet, and the rules that asked for it."""

    entry: Entry
    origins: tuple[Origin, ...]


class PolicyName(NamedTuple):
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one node says in one direction. `entries`: endpoints, ipcache of own and other address, subjects.

    A subject that the log does not know is closed though nothing isolates it.
    """

    node: str
    direction: int
    subject: int
    peer: int
    reason: str
    entries: tuple[Entry, ...]
    matches: tuple[Match, ...]  # the rows that count, tier by tier; all but those of the last tier passed it on
    is_known: bool
    isolating: tuple[PolicyName, ...]  # that select the subject and close the direction but for what they allow
    enforcement: str  # the setting `enable-policy`

    @property
    def is_audited(self) -> bool:
        """What it refuses passes all the same."""
        return is_audited(self.entries[0].value, self.reason)

    @property
    def drops(self) -> bool:
        return self.reason != ALLOWED and not self.is_audited

    @property
    def is_enforced(self) -> bool:
        flags = self.entries[-1].value
        return flags is None or bool(flags & direction_flags(self.direction))


@dataclass(frozen=True, slots=True)
class Explanation:
    flow: Flow
    verdict: Verdict
    judgements: tuple[Judgement, ...]  # in the packet's order; none to oneself, or between strangers


def explain(flow: Flow, tables: Mapping[str, Tables], source: State | Facts) -> Explanation:
    """`tables` holds those of the nodes of the two ends. Agrees with `verdict` on them."""
    facts = StateFacts(source) if isinstance(source, State) else source
    here, there = (tables.get(place.node) if place.node else None for place in (flow.source, flow.destination))
    found = verdict(here, there, flow.source.ip, flow.destination.ip, flow.protocol, flow.port)
    judgements = []
    if flow.source.ip != flow.destination.ip:
        sender = here.endpoints.get(flow.source.ip) if here is not None else None
        receiver = there.endpoints.get(flow.destination.ip) if there is not None else None
        if here is not None and sender is not None:
            judgements.append(_judgement(flow, EGRESS, here, facts, sender[1], None))
        if there is not None and receiver is not None:
            judgements.append(_judgement(flow, INGRESS, there, facts, receiver[1], sender[1] if sender else None))
    return Explanation(flow, found, tuple(judgements))


def _judgement(
    flow: Flow, direction: int, tables: Tables, facts: Facts, subject: int, known_peer: int | None
) -> Judgement:
    """`known_peer`: the identity that the packet brings; else it is that of the peer's address."""
    own, other = (flow.source, flow.destination) if direction == EGRESS else (flow.destination, flow.source)
    node = own.node or ""
    peer_entry = _address_entry(node, tables, other.ip)
    peer = (
        known_peer
        if known_peer is not None
        else (world_of(other.ip) if peer_entry.row is None else peer_entry.value[0])
    )
    entries = (
        _entry(tables, Row(node, "endpoints", own.ip), format_ip(own.ip)),
        _address_entry(node, tables, own.ip),
        peer_entry,
        _entry(tables, Row(node, "subjects", subject), str(subject)),
    )
    flags = entries[-1].value
    known = facts.knows(subject)
    policies = facts.policies_of(subject) if known else ()
    isolating = tuple(_name(policy) for policy in policies if policy.flags & _flag(direction))
    said = known, isolating, facts.enforcement
    if flags is None or is_unknown(flags):
        return Judgement(node, direction, subject, peer, NO_SUBJECT, entries, (), *said)
    if not flags & direction_flags(direction):
        return Judgement(node, direction, subject, peer, ALLOWED, entries, (), *said)
    rows = tables.policy.get(subject, {})
    reason, counted = judge_tiers(flags, rows, direction, peer, flow.protocol, flow.port)
    provenance = resolve(facts, subject).provenance if counted else {}
    matches = tuple(
        Match(_entry(tables, Row(node, "policy", (subject, key)), _l4(key)), provenance.get(key, ()))
        for keys in counted
        for key in keys
    )
    return Judgement(node, direction, subject, peer, reason, entries, matches, *said)


def _address_entry(node: str, tables: Tables, ip: int) -> Entry:
    key = ipcache_match(tables, ip)
    if key is None:
        return Entry(format_ip(ip), None)
    return _entry(tables, Row(node, "ipcache", key), format_ip(ip))


def _entry(tables: Tables, row: Row, sought: str) -> Entry:
    value = row.value(tables)
    return Entry(sought, None) if value is None else Entry(sought, row, value)


def _l4(key: PolicyKey) -> str:
    return f"{key.protocol} {key.port}/{key.port_prefix_len}"


def _name(policy: PolicyRules) -> PolicyName:
    return PolicyName(policy.kind, policy.namespace, policy.name)


def _flag(direction: int) -> int:
    return ENFORCE_INGRESS if direction == INGRESS else ENFORCE_EGRESS
