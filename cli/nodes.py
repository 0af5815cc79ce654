"""The table of nodes, as `kilim status` and `kilim node list` print it."""

from collections.abc import Iterable
from typing import Any

from kilim.cli.table import age
from kilim.v1 import controlplane_pb2 as pb

DIGEST_CHARACTERS = 12


def digest_text(digest: bytes, wide: bool = False) -> str:
    text = digest.hex()
    return text if wide else text[:DIGEST_CHARACTERS]


def node_rows(nodes: Iterable[Any], wide: bool) -> tuple[list[str], list[list[object]]]:
    """Headers and rows of NodeStatus messages."""
    headers = ["NAME", "STATUS", "IP", "POD CIDRS", "SEQ", "STATE DIGEST", "TABLE DIGEST", "REPORTED", "ERRORS"]
    return headers, [_row(node, wide) for node in nodes]


def _row(node: Any, wide: bool) -> list[object]:
    reported = node.seq > 0
    return [
        node.name,
        _condition(node),
        node.ip,
        list(node.pod_cidrs),
        node.seq if reported else None,
        digest_text(node.state_digest, wide),
        digest_text(node.table_digest, wide),
        f"{age(node.last_report_age_ms)} ago" if reported else None,
        "; ".join(node.errors),
    ]


def _condition(node: Any) -> str:
    if not node.up:
        return "down"
    if node.errors:
        return "errors"
    return "digest differs" if node.state_comparison == pb.DIFFERS else "ok"
