"""What is known of the other nodes, in the messages of the two APIs."""

from itertools import islice

from kilim.agent.core.connectivity import NodeConnectivity, Path, Record, unreachable_paths
from kilim.agent.health.prober import Snapshot
from kilim.model.address import format_ip
from kilim.v1 import agent_pb2, controlplane_pb2

_NAMED = 8  # in a report


def summary_of(snapshot: Snapshot) -> controlplane_pb2.ConnectivitySummary:
    """For a report: short, however many nodes there are."""
    found = list(unreachable_paths(snapshot.nodes))
    judged = [node for node in snapshot.nodes if node.reachability != "unknown"]
    return controlplane_pb2.ConnectivitySummary(
        nodes=len(judged),
        reachable=sum(node.reachability == "reachable" for node in judged),
        unreachable=[_unreachable(snapshot.at_s, *each) for each in islice(found, _NAMED)],
        more=max(len(found) - _NAMED, 0),
    )


def _unreachable(now_s: float, path: Path, record: Record) -> controlplane_pb2.UnreachablePath:
    return controlplane_pb2.UnreachablePath(
        node=path.node,
        path=path.words,
        ip=format_ip(path.ip),
        error=record.error,
        for_ms=_ms(now_s - record.since_s),
    )


def health_of(node: str, snapshot: Snapshot, endpoint_ips: tuple[int, ...]) -> agent_pb2.HealthResponse:
    return agent_pb2.HealthResponse(
        node=node,
        nodes=[_node(snapshot.at_s, each) for each in snapshot.nodes],
        interval_ms=_ms(snapshot.interval_s),
        endpoint_ips=map(format_ip, endpoint_ips),
    )


def _node(now_s: float, node: NodeConnectivity) -> agent_pb2.NodeHealth:
    return agent_pb2.NodeHealth(name=node.name, paths=[_path(now_s, *each) for each in node.paths])


def _path(now_s: float, path: Path, record: Record | None) -> agent_pb2.PathHealth:
    answer = agent_pb2.PathHealth(
        endpoint=path.endpoint,
        ip=format_ip(path.ip),
        protocol=path.protocol,
        state="unknown",
        last_success_ms=-1,
        last_probe_ms=-1,
    )
    if record is not None:
        answer.state = record.reachability
        answer.latency_ns = round(record.latency_s * 1e9)
        answer.last_probe_ms = _ms(now_s - record.probed_s)
        if record.succeeded_s is not None:
            answer.last_success_ms = _ms(now_s - record.succeeded_s)
        answer.error, answer.failures = record.error, record.failures
    return answer


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
