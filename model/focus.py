"""What some rows of some nodes depend on, so that a history is followed for them alone; and since when they are so.

A visitor would get wrong: a focus is a filter on the state, entry by entry, and the tables of what it keeps have the
same focused rows as those of the whole; an endpoint that changes out of the focus is gone from what is kept.

A row depends on
1. its node's and all other nodes' entries, and the settings that tables are made with;
2. for an address: the endpoints that have it, the prefixes that cover it;
3. for an identity, as subject or as peer: its labels, the endpoints that have it (they make the subject's row, and name
   the ports), all policies and the services that these may refer to.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from kilim.model.address import is_ipv6, mapped
from kilim.model.explain import Explanation, PolicyName, Row
from kilim.model.fold import EndpointNote, endpoint_of, entry_of
from kilim.model.identity import FIRST_CIDR
from kilim.model.node_tables import NodeTables
from kilim.model.nouns import decode_identity, ips_or_zero
from kilim.model.policy_parts import TABLES_OF_POLICIES
from kilim.model.resolve import BUILT_IN
from kilim.model.settings import OF_TABLES
from kilim.model.snapshot import endpoint_field
from kilim.model.state import Change, Key, State, endpoint_key, key_from_bytes, policy_key
from kilim.v1 import events_pb2 as pb


@dataclass(frozen=True, slots=True)
class Focus:
    ips: frozenset[int]
    identities: frozenset[int]

    def marks(self) -> list[bytes]:
        """One of them stands in the record of every endpoint that is kept."""
        identities = [endpoint_field(identity=number) for number in self.identities]
        return [*map(mark_of, self.ips), *identities]

    def keeps(self, table: str, key: Key, value: bytes) -> bool:
        if table == "endpoint":
            return self.keeps_endpoint(pb.Endpoint.FromString(value))
        if table == "identity":
            return key in self.identities or (int(key) >= FIRST_CIDR and self._covers(value))
        if table == "setting":
            return str(key).partition("/")[0] in OF_TABLES
        return table == "node" or table in TABLES_OF_POLICIES

    def keeps_record(self, table: str, key: bytes, value: bytes) -> bool:
        return self.keeps(table, key_from_bytes(table, key), value)

    def keeps_endpoint(self, endpoint: pb.Endpoint) -> bool:
        return endpoint.identity in self.identities or any(ip in self.ips for ip in ips_or_zero(endpoint))

    def _covers(self, value: bytes) -> bool:
        cidr = decode_identity(value).cidr
        return cidr is not None and any(cidr.contains_ip(ip) for ip in self.ips)


def mark_of(ip: int) -> bytes:
    """Stands in the record of every endpoint that has the address."""
    return endpoint_field(ipv6=mapped(ip)) if is_ipv6(ip) else endpoint_field(ip=ip)


class Focused:
    """The part of a state that a focus keeps, and the tables of some nodes made from it."""

    def __init__(self, focus: Focus, nodes: Iterable[str] = ()) -> None:
        self._focus = focus
        self.state = State()
        self.nodes = {name: NodeTables(name) for name in nodes}

    def load(self, records: Iterable[tuple[str, bytes, bytes]], seq: int) -> None:
        """A whole state, of which the focus keeps its part."""
        keeps = self._focus.keeps_record
        self.state.load((each for each in records if keeps(*each)), seq)
        for tables in self.nodes.values():
            tables.rebuild(self.state)

    def make_tables(self, nodes: Iterable[str]) -> None:
        """Of these nodes, instead of those before."""
        self.nodes = {name: NodeTables(name) for name in nodes}
        for tables in self.nodes.values():
            tables.rebuild(self.state)

    def follow(self, seq: int, event: pb.Event) -> Change | None:
        """What of the event is in the focus; None: nothing, and no row of it has changed."""
        self.state.seq = seq
        if self._passes_by(event):
            return None
        found = entry_of(event)
        if found is None:
            return None
        table, key, value = found
        if value is not None and not self._focus.keeps(table, key, value):
            value = None
        change = self.state.put(table, key, value)
        if change is not None:
            for tables in self.nodes.values():
                tables.update(self.state, (change,))
        return change

    def may_keep(self, note: EndpointNote) -> bool:
        """False: `follow` would make nothing of that event."""
        key, ips, identity = note
        focus = self._focus
        return identity in focus.identities or any(ip in focus.ips for ip in ips) or key in self.state.endpoints.data

    def _passes_by(self, event: pb.Event) -> bool:
        """An endpoint that is not in the focus and was not before: most events of a cluster."""
        endpoint = endpoint_of(event)
        if endpoint is None or self._focus.keeps_endpoint(endpoint):
            return False
        return endpoint_key(endpoint.namespace, endpoint.name) not in self.state.endpoints.data


class Since(NamedTuple):
    """The event that made something what it is; None: it was so at `seq` already, and nothing tells of before."""

    seq: int
    event: pb.Event | None


Thing = Row | PolicyName  # whose last change is sought


class Watch:
    """Notes the last change of each of some things while a stretch of history goes by."""

    def __init__(self, focus: Focus, things: Iterable[Thing]) -> None:
        self._things = list(things)
        rows = [thing for thing in self._things if isinstance(thing, Row)]
        self._focused = Focused(focus, {row.node for row in rows})
        self._values: dict[Thing, Any] = {}
        self.changed: dict[Thing, Since] = {}

    def begin(self, records: Iterable[tuple[str, bytes, bytes]], seq: int) -> None:
        self._focused.load(records, seq)
        self._values = {thing: self._value(thing) for thing in self._things}

    def follow(self, seq: int, event: pb.Event) -> None:
        if self._focused.follow(seq, event) is None:
            return
        for thing in self._things:
            value = self._value(thing)
            if value != self._values.get(thing):
                self._values[thing] = value
                self.changed[thing] = Since(seq, event)

    def _value(self, thing: Thing) -> Any:
        if isinstance(thing, Row):
            return thing.value(self._focused.nodes[thing.node].tables)
        return self._focused.state.policies.data.get(policy_key(*thing))


def focus_of(explanation: Explanation) -> Focus:
    """What every row of an explanation depends on."""
    flow = explanation.flow
    identities = {each for judgement in explanation.judgements for each in (judgement.subject, judgement.peer)}
    return Focus(frozenset({flow.source.ip, flow.destination.ip}), frozenset(identities))


def things_of(explanation: Explanation) -> list[Thing]:
    """The rows of an explanation, and the policies that it names, each once."""
    things: dict[Thing, None] = {}
    for judgement in explanation.judgements:
        for entry in (*judgement.entries, *(match.entry for match in judgement.matches)):
            if entry.row is not None:
                things[entry.row] = None
        for match in judgement.matches:
            things.update(dict.fromkeys(PolicyName(*origin[:3]) for origin in match.origins if origin.kind != BUILT_IN))
        things.update(dict.fromkeys(judgement.isolating))
    return list(things)
