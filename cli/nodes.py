"""The table of nodes, as `kilim status` and `kilim node list` print it.

Easy to get wrong: of a node that is down or silent only the past is known. A question mark stands before all that is
said of it, so that nobody takes it for the present.
"""

from collections.abc import Callable, Iterable
from typing import Any

from kilim.cli.table import age
from kilim.v1 import controlplane_pb2 as pb

DIGEST_CHARACTERS = 10
MARKS = {pb.MATCH: "✓", pb.DIFFERS: "✗", pb.NOT_COMPARED: "…", pb.STALE: "?"}
HEALTH = ("NAME", "STATUS", "SEQ", "LAG", "STATE DIGEST", "TABLE DIGEST", "KERNEL", "REACHES")
PLACE = ("NAME", "STATUS", "IP", "POD CIDRS", "SEQ", "LAG", "REPORTED", "ERRORS")


def digest_text(digest: bytes, wide: bool = False) -> str:
    text = digest.hex()
    return text if wide else text[:DIGEST_CHARACTERS]


def compared_text(comparison: "pb.Comparison.ValueType", digest: bytes, wide: bool = False) -> str:
    """Whether it is what the replica that answers has itself, and the digest."""
    return f"{MARKS.get(comparison, '?')} {digest_text(digest, wide)}" if digest else ""


def node_rows(nodes: Iterable[Any], columns: Iterable[str], wide: bool) -> tuple[list[str], list[list[object]]]:
    """Headers and rows of NodeStatus messages; with `wide` every column there is."""
    headers = list(_CELLS) if wide else list(columns)
    return headers, [[_CELLS[header](node, wide) for header in headers] for node in nodes]


def _condition(node: Any) -> str:
    if not node.up:
        return "down"
    if node.silent:
        return "silent"
    if node.errors:
        return "errors"
    return "differs" if pb.DIFFERS in {node.state_comparison, node.table_comparison, node.kernel_comparison} else "ok"


def _lag(node: Any) -> str:
    text = f"{node.lag_events} ({age(node.lag_ms)})" if node.lag_events else "0"
    if node.up and not node.silent:
        return text
    return f"? {text}" if node.lag_events else "?"


def _kernel(node: Any) -> str:
    mark = MARKS.get(node.kernel_comparison, "?")
    return f"{mark} {age(node.kernel_age_ms)}" if node.kernel_comparison == pb.STALE else mark


def _reaches(node: Any) -> str | None:
    """Of the other nodes that its agent has probed, how many it reaches on all paths."""
    if not node.HasField("health"):
        return None
    return f"{'' if node.up and not node.silent else '? '}{node.health.reachable}/{node.health.nodes}"


_CELLS: dict[str, Callable[[Any, bool], object]] = {
    "NAME": lambda node, wide: node.name,
    "STATUS": lambda node, wide: _condition(node),
    "IP": lambda node, wide: [ip for ip in (node.ip, node.ipv6) if ip],
    "POD CIDRS": lambda node, wide: list(node.pod_cidrs),
    "SEQ": lambda node, wide: node.seq or None,
    "LAG": lambda node, wide: _lag(node),
    "STATE DIGEST": lambda node, wide: compared_text(node.state_comparison, node.state_digest, wide),
    "TABLE DIGEST": lambda node, wide: compared_text(node.table_comparison, node.table_digest, wide),
    "KERNEL": lambda node, wide: _kernel(node),
    "REACHES": lambda node, wide: _reaches(node),
    "REPAIRS": lambda node, wide: node.drift_repairs,
    "ROUTING": lambda node, wide: node.routing_mode,
    "AUDIT": lambda node, wide: "on" if node.policy_audit_mode else None,
    "REPORTED": lambda node, wide: f"{age(node.last_report_age_ms)} ago" if node.seq else None,
    "ERRORS": lambda node, wide: "; ".join(node.errors),
}
