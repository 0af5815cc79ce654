"""Metrics of the health check, with Cilium's names."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

from kilim.agent.core.connectivity import NodeConnectivity, Path
from kilim.model.address import is_ipv6

_BOUNDS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_LABELS = ["source_node_name", "type", "address_type", "protocol"]
_TYPES = {False: "node", True: "endpoint"}


class Latencies:
    """How long the answers of probes took, since the agent started."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, str], Counter[int]] = {}  # labels -> bucket -> answers
        self.sums_s: Counter[tuple[str, str, str]] = Counter()

    def observe(self, path: Path, primary_ipv6: bool, latency_s: float) -> None:
        """`primary_ipv6`: the family of the first address that its node has."""
        address_type = "primary" if is_ipv6(path.ip) is primary_ipv6 else "secondary"
        labels = (_TYPES[path.endpoint], address_type, path.protocol.lower())
        self.counts.setdefault(labels, Counter())[bisect_left(_BOUNDS_S, latency_s)] += 1
        self.sums_s[labels] += latency_s  # type: ignore[assignment]  # a Counter adds up floats too


def connectivity_metrics(node: str, nodes: list[NodeConnectivity], latencies: Latencies) -> Iterable[Metric]:
    status = GaugeMetricFamily(
        "cilium_node_health_connectivity_status",
        "Other nodes, or health endpoints on them, by whether they are reachable from here.",
        labels=["source_node_name", "type", "status"],
    )
    counted = Counter((is_endpoint, each.part(is_endpoint)) for each in nodes for is_endpoint in _TYPES)
    for is_endpoint, kind in _TYPES.items():
        for word in ("reachable", "unreachable", "unknown"):
            status.add_metric([node, kind, word], counted[is_endpoint, word])
    yield status
    yield GaugeMetricFamily(
        "cilium_unreachable_nodes", "Nodes that cannot be reached.", value=counted[False, "unreachable"]
    )
    yield GaugeMetricFamily(
        "cilium_unreachable_health_endpoints",
        "Health endpoints that cannot be reached.",
        value=counted[True, "unreachable"],
    )
    histogram = HistogramMetricFamily(
        "cilium_node_health_connectivity_latency_seconds", "Time until a probe was answered.", labels=_LABELS
    )
    for labels, counts in sorted(latencies.counts.items()):
        histogram.add_metric([node, *labels], _buckets(counts), latencies.sums_s[labels])
    yield histogram


def _buckets(counts: Counter[int]) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for number, bound in enumerate((*map(str, _BOUNDS_S), "+Inf")):
        total += counts[number]
        buckets.append((bound, float(total)))
    return buckets
