"""Verdicts on single flows in two states at once, for ends that are named or have an address.

A visitor would get wrong: an end that was a pod and is none in the state has no verdict at all; its address may be
somebody else's by now.
"""

from typing import NamedTuple

from kilim.model.address import Cidr, prefix_mask
from kilim.model.comparison import Comparison
from kilim.model.identity import HOST, REMOTE_NODE
from kilim.model.l4_set import contains
from kilim.model.state import State


class FlowEnd(NamedTuple):
    """As somebody saw it: `key` is namespace/pod, empty where it was no pod."""

    key: str
    ip: int | None


class SeenFlow(NamedTuple):
    source: FlowEnd
    destination: FlowEnd
    protocol: int
    port: int


class Verdicts(NamedTuple):
    before: bool
    after: bool


class FlowVerdicts:
    def __init__(self, before: State, comparison: Comparison) -> None:
        self._comparison = comparison
        self._end_of_pod: dict[str, int] = {}
        self._end_of_prefix: dict[str, int] = {}
        for number, end in enumerate(comparison.ends):
            (self._end_of_pod if end.is_ours else self._end_of_prefix).update(dict.fromkeys(end.names, number))
        endpoints = {key: before.endpoints[key] for key in self._end_of_pod}
        self._node_of = {key: endpoint.node for key, endpoint in endpoints.items()}
        self._pod_at = {endpoint.ip: key for key, endpoint in endpoints.items()}
        self._node_at = {node.ip: name for name, node in before.nodes.items()}

    def of(self, flow: SeenFlow) -> Verdicts | None:
        """None where an end cannot be placed, or neither is a pod."""
        source, destination = (self._pod(end) for end in (flow.source, flow.destination))
        if source is not None and source == destination:
            return Verdicts(True, True)
        places = self._place(flow.source, source), self._place(flow.destination, destination)
        if None in places or (source is None and destination is None):
            return None
        if HOST in (self._host(flow.source, source, destination), self._host(flow.destination, destination, source)):
            return Verdicts(True, True)  # a node and its pods reach each other, whatever policy says
        assert places[0] is not None and places[1] is not None
        pair = self._comparison.between(places[0], places[1])
        return Verdicts(contains(pair.before, flow.protocol, flow.port), contains(pair.after, flow.protocol, flow.port))

    def _pod(self, end: FlowEnd) -> str | None:
        if end.key in self._end_of_pod:
            return end.key
        return None if end.ip is None else self._pod_at.get(end.ip)

    def _place(self, end: FlowEnd, pod: str | None) -> int | None:
        """Among the ends of the comparison."""
        if pod is not None:
            return self._end_of_pod[pod]
        if end.key or end.ip is None:
            return None
        if end.ip in self._node_at:
            return next(n for n, each in enumerate(self._comparison.ends) if each.before == REMOTE_NODE)
        for prefix_len in range(32, -1, -1):
            found = self._end_of_prefix.get(str(Cidr(end.ip & prefix_mask(prefix_len), prefix_len)))
            if found is not None:
                return found
        return None

    def _host(self, end: FlowEnd, pod: str | None, other: str | None) -> int | None:
        if pod is None and other is not None and end.ip is not None and end.ip in self._node_at:
            return HOST if self._node_at[end.ip] == self._node_of[other] else REMOTE_NODE
        return None
