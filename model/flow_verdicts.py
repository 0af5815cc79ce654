"""Verdicts on single flows in two states at once, for ends that are named or have an address.

A visitor would get wrong: an end that was a pod and is none in the state has no verdict at all; its address may be
somebody else's by now.
"""

from typing import NamedTuple

from kilim.model.address import Cidr, host_length, without_host_bits
from kilim.model.comparison import OTHER_NODES, OWN_NODE, Comparison, name_of_node
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
        self._end_of_name: dict[str, int] = {}  # prefixes and nodes
        for number, end in enumerate(comparison.ends):
            (self._end_of_pod if end.is_ours else self._end_of_name).update(dict.fromkeys(end.names, number))
        endpoints = {key: before.endpoints[key] for key in self._end_of_pod}
        self._node_of = {key: endpoint.node for key, endpoint in endpoints.items()}
        self._pod_at = {ip: key for key, endpoint in endpoints.items() for ip in endpoint.ips}
        self._node_at = {ip: name for name, node in before.nodes.items() for ip in node.ips}

    def of(self, flow: SeenFlow) -> Verdicts | None:
        """None where an end cannot be placed, or neither is a pod."""
        source, destination = (self._pod(end) for end in (flow.source, flow.destination))
        if source is not None and source == destination:
            return Verdicts(True, True)
        places = self._place(flow.source, source, destination), self._place(flow.destination, destination, source)
        if None in places or (source is None and destination is None):
            return None
        assert places[0] is not None and places[1] is not None
        pair = self._comparison.between(places[0], places[1])
        return Verdicts(contains(pair.before, flow.protocol, flow.port), contains(pair.after, flow.protocol, flow.port))

    def _pod(self, end: FlowEnd) -> str | None:
        if end.key in self._end_of_pod:
            return end.key
        return None if end.ip is None else self._pod_at.get(end.ip)

    def _place(self, end: FlowEnd, pod: str | None, other: str | None) -> int | None:
        """Among the ends of the comparison; `other` is the pod at the other end."""
        if pod is not None:
            return self._end_of_pod[pod]
        if end.key or end.ip is None:
            return None
        if end.ip in self._node_at:
            node = self._node_at[end.ip]
            own = other is not None and self._node_of[other] == node
            name = OWN_NODE if own else name_of_node(node)
            return self._end_of_name.get(name, self._end_of_name[OTHER_NODES])
        for prefix_len in range(host_length(end.ip), -1, -1):
            found = self._end_of_name.get(str(Cidr(without_host_bits(end.ip, prefix_len), prefix_len)))
            if found is not None:
                return found
        return None
