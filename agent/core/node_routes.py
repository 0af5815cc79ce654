"""Where this node's own stack finds the pods of other nodes. PURE."""

from collections.abc import Iterable

from kilim.model.nouns import Node


def plan_node_routes(nodes: Iterable[Node], own: str) -> dict[str, int]:
    """Pod CIDR to the address of the node that has it. Of two nodes that claim one CIDR the first by name has it."""
    routes: dict[str, int] = {}
    for node in sorted(nodes, key=lambda each: each.name):
        if node.name == own:
            continue
        for cidr in node.pod_cidrs:
            routes.setdefault(cidr, node.ip)
    return routes
