"""What policies name of nodes: keys of their labels, and prefixes that their addresses may lie in.

Easy to get wrong: 0.0.0.0/0 is not among the prefixes. It contains every node, so none needs a label to be found by it.
"""

from collections.abc import Iterable

from kilim.controlplane.decide.prefixes import PrefixTable, prefixes_of
from kilim.model.address import Cidr
from kilim.model.compile import peers_of
from kilim.model.identity import NODE_LABEL, membership_label
from kilim.model.node_selector import node_keys, node_label
from kilim.model.nouns import Node
from kilim.model.rules import CidrPeer, PolicyRules


class NodeTerms:
    """Each with how often it is named."""

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self.prefixes = PrefixTable()

    def __bool__(self) -> bool:
        return bool(self.keys or self.prefixes)

    def count(self, keys: Iterable[str], prefixes: Iterable[Cidr], step: int) -> None:
        for key in keys:
            self.keys[key] = self.keys.get(key, 0) + step
            if not self.keys[key]:
                del self.keys[key]
        for prefix in prefixes:
            self.prefixes.count(prefix, step)

    def labels_of(self, node: Node, every_label: bool) -> set[str]:
        """Those that its identity needs, but for the one that says that it is a node."""
        own = {node_label(key, value) for key, value in node.labels if every_label or key in self.keys}
        return own | {membership_label(prefix) for ip in node.ips for prefix in self.prefixes.containing(ip)}


def terms_of(parts: Iterable[PolicyRules]) -> tuple[set[str], tuple[Cidr, ...]]:
    """(keys, prefixes)"""
    peers = list(peers_of(parts))
    holding_nodes = (peer for peer in peers if isinstance(peer, CidrPeer) and peer.nodes)
    return node_keys(peers), prefixes_of(holding_nodes)


def identity_labels(labels: set[str]) -> tuple[str, ...]:
    """Of a node's identity, sorted; none where it is not told from other nodes."""
    return tuple(sorted({*labels, NODE_LABEL})) if labels else ()
