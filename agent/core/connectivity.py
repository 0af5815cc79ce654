"""Whom this node reaches: which paths are probed, when, and what the results come to. PURE.

To each other node, for each of its addresses of a family that this node has too:
  host ICMP, host HTTP          the node's own stack and its agent
  endpoint ICMP, endpoint HTTP  its health endpoint: the way of pods, through the datapath of both nodes
Easy to get wrong: one lost packet is no news. A path is unreachable after `FAILURES` probes in a row have failed, which
follow one another fast once the first has.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from kilim.model.address import is_ipv6
from kilim.model.identity import HEALTH
from kilim.model.nouns import HEALTH_NAMESPACE, Endpoint, Node
from kilim.model.state import State, endpoint_key

FAILURES = 3
TIMEOUT_MAX_S = 5.0
ICMP, HTTP = "ICMP", "HTTP"
Reachability = Literal["reachable", "unreachable", "unknown"]
REACHABLE: Reachability = "reachable"
UNREACHABLE: Reachability = "unreachable"
UNKNOWN: Reachability = "unknown"


class Path(NamedTuple):
    node: str
    endpoint: bool
    ip: int
    protocol: str

    @property
    def words(self) -> str:
        return f"{'endpoint' if self.endpoint else 'host'} {self.protocol}"


@dataclass(frozen=True, slots=True)
class Result:
    """Of one probe, at `at_s`. `error` empty: it was answered after `latency_s`."""

    at_s: float
    latency_s: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one path. `succeeded_s` None: it never was answered; `latency_s` is of the last success."""

    first_s: float
    probed_s: float
    succeeded_s: float | None = None
    latency_s: float = 0.0
    error: str = ""
    failures: int = 0

    @property
    def reachability(self) -> Reachability:
        if self.failures >= FAILURES:
            return UNREACHABLE
        return UNKNOWN if self.succeeded_s is None else REACHABLE

    @property
    def since_s(self) -> float:
        """Of one that is not reachable: when it last was, or was first tried."""
        return self.first_s if self.succeeded_s is None else self.succeeded_s


def record_after(before: Record | None, result: Result) -> Record:
    known = before or Record(result.at_s, result.at_s)
    if result.error:
        return replace(known, probed_s=result.at_s, error=result.error, failures=known.failures + 1)
    return replace(
        known, probed_s=result.at_s, succeeded_s=result.at_s, latency_s=result.latency_s, error="", failures=0
    )


# --- which paths


def paths_to(node: Node, endpoint: Endpoint | None, families: Collection[bool]) -> tuple[Path, ...]:
    """`endpoint`: its health endpoint. `families`: whether IPv6, of those that this node has."""
    hosts = [(False, ip) for ip in node.ips]
    endpoints = [(True, ip) for ip in endpoint.ips] if endpoint is not None and endpoint.identity == HEALTH else []
    return tuple(
        Path(node.name, is_endpoint, ip, protocol)
        for is_endpoint, ip in hosts + endpoints
        if is_ipv6(ip) in families
        for protocol in (ICMP, HTTP)
    )


class PathTable:
    """The paths to every other node, kept up with the state; what has not changed is not decoded again."""

    def __init__(self, node: str, families: Collection[bool]) -> None:
        self.of: dict[str, tuple[Path, ...]] = {}
        self._node = node
        self._families = families
        self._read: dict[str, tuple[bytes, bytes | None]] = {}

    def follow(self, state: State) -> None:
        endpoints = state.endpoints.data
        for name, data in state.nodes.data.items():
            key = endpoint_key(HEALTH_NAMESPACE, name)
            read = (data, endpoints.get(key))
            if name != self._node and self._read.get(name) != read:
                self._read[name] = read
                self.of[name] = paths_to(state.nodes[name], state.endpoints.get(key), self._families)
        for name in self._read.keys() - state.nodes.data.keys():
            del self._read[name], self.of[name]


# --- when


@dataclass(frozen=True, slots=True)
class Pace:
    """`interval_s`: from one probe of a node to the next where all is well and nodes are few."""

    interval_s: float

    @property
    def timeout_s(self) -> float:
        return min(TIMEOUT_MAX_S, self.interval_s)

    def interval_among(self, nodes: int) -> float:
        """With many nodes it is longer, so that the work grows slower than the cluster."""
        return self.interval_s * max(1.0, math.log1p(nodes))

    def next_s(self, node_number: int, nodes: int, records: Iterable[Record], now_s: float) -> float:
        """1. In doubt, at once again. 2. Unreachable, often, to see its return. 3. Else in the node's own slot of the
        interval, so that all together are spread over it."""
        failures = [record.failures for record in records]
        if any(0 < each < FAILURES for each in failures):
            return now_s + min(1.0, self.interval_s)
        if any(failures):
            return now_s + min(TIMEOUT_MAX_S, self.interval_s)
        interval_s = self.interval_among(nodes)
        phase_s = interval_s * (node_number % max(nodes, 1)) / max(nodes, 1)
        slots = math.ceil((now_s + interval_s / 2 - phase_s) / interval_s)
        return slots * interval_s + phase_s


# --- what it comes to


@dataclass(frozen=True, slots=True)
class NodeConnectivity:
    """Of one node, its paths with what is known of them; None: not probed yet."""

    name: str
    paths: tuple[tuple[Path, Record | None], ...]

    @property
    def reachability(self) -> Reachability:
        """Reachable: on all paths that have been judged, and there are any."""
        return _over(self.paths)

    def part(self, endpoint: bool) -> Reachability:
        """Of the node itself, or of its health endpoint."""
        return _over(each for each in self.paths if each[0].endpoint is endpoint)


def _over(paths: Iterable[tuple[Path, Record | None]]) -> Reachability:
    found = {UNKNOWN if record is None else record.reachability for _, record in paths}
    if UNREACHABLE in found:
        return UNREACHABLE
    return REACHABLE if REACHABLE in found else UNKNOWN


def connectivity(table: Mapping[str, tuple[Path, ...]], records: Mapping[Path, Record]) -> list[NodeConnectivity]:
    """Of all other nodes, by name."""
    return [NodeConnectivity(name, tuple((path, records.get(path)) for path in table[name])) for name in sorted(table)]


def unreachable_paths(nodes: Iterable[NodeConnectivity]) -> Iterator[tuple[Path, Record]]:
    for node in nodes:
        for path, record in node.paths:
            if record is not None and record.reachability == UNREACHABLE:
                yield path, record
