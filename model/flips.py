"""How the verdict on a flow changes over a stretch of history, event by event, with no more than what it depends on.

A visitor would get wrong: the ends are pods by name, so that address, node and identity may be others at every event,
and a verdict may change back; that is why every event of the focus is looked at, and none between is guessed.
"""

from collections.abc import Iterable
from typing import NamedTuple

from kilim.model.address import is_ipv6
from kilim.model.explain import Flow, Place
from kilim.model.focus import Focus, Focused, mark_of
from kilim.model.fold import endpoint_of, entry_of
from kilim.model.identity import HOST, REMOTE_NODE, WORLD, WORLD_IPV6
from kilim.model.nouns import decode_identity, decode_node, ips_or_zero
from kilim.model.protocols import ICMPV6, of_family
from kilim.model.state import Change, Key, State, endpoint_key
from kilim.model.tables import Tables
from kilim.model.verdict import Verdict, verdict
from kilim.v1 import events_pb2 as pb

_RESERVED = frozenset(
    (HOST, WORLD, WORLD_IPV6, REMOTE_NODE)
)  # what an address may be without being anybody's in the log


class Parties(NamedTuple):
    """`source` and `destination` are keys of endpoints (namespace/name); a number is an address. ICMP is that of their
    family."""

    source: str | int
    destination: str | int
    protocol: int
    port: int


class Outcome(NamedTuple):
    """`allowed` is None while an end does not exist; `reason` then names it."""

    allowed: bool | None
    direction: int | None
    reason: str


class Flip(NamedTuple):
    seq: int
    event: pb.Event
    change: Change  # of the focus: what leaves it is gone
    before: Outcome
    after: Outcome


class Past:
    """What the ends have been in a stretch: addresses, and whoever had one of them."""

    def __init__(self, parties: Parties) -> None:
        ends = (parties.source, parties.destination)
        self._keys = {end for end in ends if isinstance(end, str)}
        self._ips = {end for end in ends if isinstance(end, int)}
        self._holders: set[tuple[int, int, str]] = set()  # (address, identity, node) of each that ever had one
        self._nodes: set[tuple[int, int]] = set()  # (address, identity) of each node that had one of its own
        self._prefixes: set[tuple[int, bytes]] = set()

    def see(self, table: str, key: Key, value: bytes) -> None:
        if table == "endpoint":
            self._see_endpoint(pb.Endpoint.FromString(value))
        elif table == "node":
            node = decode_node(value)
            self._nodes.update((ip, node.identity) for ip in node.ips)
        elif table == "identity":
            identity = decode_identity(value)
            if identity.cidr is not None:
                self._prefixes.add((int(key), value))

    def see_event(self, event: pb.Event) -> None:
        """What it puts somewhere."""
        endpoint = endpoint_of(event)
        if endpoint is not None:
            self._see_endpoint(endpoint)
            return
        entry = entry_of(event)
        if entry is not None and entry[2] is not None:
            self.see(entry[0], entry[1], entry[2])

    def _see_endpoint(self, endpoint: pb.Endpoint) -> None:
        if endpoint_key(endpoint.namespace, endpoint.name) in self._keys:
            self._ips.update(ips_or_zero(endpoint))
        self._holders.update((ip, endpoint.identity, endpoint.node) for ip in ips_or_zero(endpoint))

    def marks(self) -> list[bytes]:
        """One of them stands in the record of every endpoint that is one of the ends or has an address of theirs."""
        return [*(key.partition("/")[2].encode() for key in self._keys), *map(mark_of, self._ips)]

    def focus(self) -> Focus:
        """What every verdict in the stretch depends on."""
        cidrs = ((number, decode_identity(value).cidr) for number, value in self._prefixes)
        covering = {number for number, cidr in cidrs if cidr and any(cidr.contains_ip(ip) for ip in self._ips)}
        identities = {identity for ip, identity, _ in self._holders if ip in self._ips} | covering | _RESERVED
        identities |= {identity for ip, identity in self._nodes if ip in self._ips}
        return Focus(frozenset(self._ips), frozenset(identities))

    def nodes(self) -> set[str]:
        """Those that the ends have been on."""
        return {node for ip, _, node in self._holders if ip in self._ips}

    def focused(self) -> Focused:
        return Focused(self.focus(), self.nodes())


def flow_of(state: State, tables: dict[str, Tables], parties: Parties) -> Flow | str:
    """The flow between what the names stand for now, or the name that stands for nothing."""
    found: list[tuple[tuple[int, ...], str | None]] = []  # addresses, node
    for end in (parties.source, parties.destination):
        if isinstance(end, int):
            node = next((name for name in sorted(tables) if end in tables[name].endpoints), None)
            found.append(((end,), node))
        elif end in state.endpoints:
            endpoint = state.endpoints[end]
            found.append((endpoint.ips or (0,), endpoint.node))
        else:
            return end
    (sources, here), (destinations, there) = found
    source, destination = _of_one_family(sources, destinations, parties.protocol == ICMPV6)
    l4 = of_family(parties.protocol, parties.port, is_ipv6(destination))
    return Flow(Place(source, here), Place(destination, there), *l4)


def _of_one_family(sources: tuple[int, ...], destinations: tuple[int, ...], rather_ipv6: bool) -> tuple[int, int]:
    """IPv4 unless asked; where no family is common to both, the first of each."""
    pairs = [(one, other) for one in sources for other in destinations if is_ipv6(one) == is_ipv6(other)]
    return pairs[-1 if rather_ipv6 else 0] if pairs else (sources[0], destinations[0])


def outcome_of(state: State, tables: dict[str, Tables], parties: Parties) -> Outcome:
    flow = flow_of(state, tables, parties)
    if isinstance(flow, str):
        return Outcome(None, None, flow)
    here, there = (tables.get(place.node) if place.node else None for place in (flow.source, flow.destination))
    return outcome(verdict(here, there, flow.source.ip, flow.destination.ip, flow.protocol, flow.port))


def outcome(found: Verdict) -> Outcome:
    return Outcome(found.allowed, found.direction, found.reason)


def last_flip(focused: Focused, events: Iterable[tuple[int, pb.Event]], parties: Parties) -> Flip | None:
    """The last event that made the verdict another one; `focused` holds the state before the first of them."""
    tables = {name: each.tables for name, each in focused.nodes.items()}
    before = outcome_of(focused.state, tables, parties)
    flip = None
    for seq, event in events:
        change = focused.follow(seq, event)
        if change is None:
            continue
        after = outcome_of(focused.state, tables, parties)
        if after != before:
            flip = Flip(seq, event, change, before, after)
            before = after
    return flip
