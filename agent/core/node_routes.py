"""Where this node's own stack finds pods of other nodes, and that it finds nobody else in its own pod CIDRs. PURE."""

from collections.abc import Iterable
from typing import NamedTuple

from kilim.agent.core.pod_cidrs import readable
from kilim.model.address import is_ipv6
from kilim.model.nouns import Node


class NodeRoute(NamedTuple):
    """Addresses of one family: of the node that has the pods, and of this one."""

    gateway: int
    source: int


def plan_node_routes(nodes: Iterable[Node], own: str, own_ips: Iterable[int]) -> dict[str, NodeRoute]:
    """By pod CIDR. Of two nodes that claim one CIDR the first by name has it. None where one of the two nodes has no
    address of the CIDR's family."""
    sources = {is_ipv6(ip): ip for ip in own_ips}
    routes: dict[str, NodeRoute] = {}
    for node in sorted(nodes, key=lambda each: each.name):
        if node.name == own:
            continue
        gateways = {is_ipv6(ip): ip for ip in node.ips}
        for cidr in readable(node.pod_cidrs):
            family = is_ipv6(cidr.ip)
            if family in gateways and family in sources:
                routes.setdefault(str(cidr), NodeRoute(gateways[family], sources[family]))
    return routes


def own_pod_cidrs(nodes: Iterable[Node], own: str) -> list[str]:
    """Of this node. What is for an address in them that no pod has is for nobody: it would go out by the default route,
    come back from whoever routes the CIDR here, and go round until its time to live is over."""
    return sorted(str(cidr) for node in nodes if node.name == own for cidr in readable(node.pod_cidrs))
