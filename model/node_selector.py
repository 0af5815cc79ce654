"""Nodes as peers of a rule: selectors over labels of nodes, to selectors over the identities of nodes.

A visitor would get wrong: a node's identity has of its labels those that some policy asks for (all of them where the
setting `enable-node-selector-labels` is true), so what a policy asks for must be found in its inner form: `node_keys`.
Of `kubernetes.io/os` nobody needs a label: agents run on Linux alone, so it holds for all nodes or for none.
"""

from collections.abc import Iterable

from kilim.model.identity import NODE_LABEL
from kilim.model.rules import Peer
from kilim.model.selector import EXISTS, Requirement, Selector, selector_of

NODE_SOURCE = "node:"
HOSTNAME = "kubernetes.io/hostname"
OS = "kubernetes.io/os"
LINUX = "linux"


def node_label(key: str, value: str) -> str:
    """Of a node's identity, for a label of the node."""
    return f"{NODE_SOURCE}{key}={value}"


def nodes_where(selector: Selector, source: str = "") -> list[Peer]:
    """All nodes but the own one that the selector selects: one peer, or none. Keys of nodes' labels begin with
    `source`; others are left as they are."""
    requirements = [Requirement(NODE_LABEL, EXISTS)]
    for each in selector.requirements:
        key = each.key.removeprefix(source)
        if not each.key.startswith(source):
            requirements.append(each)
        elif key != OS:
            requirements.append(each._replace(key=NODE_SOURCE + key))
        elif not each._replace(key=OS).matches({OS: LINUX}):
            return []
    return [selector_of(requirements)]


def node_keys(peers: Iterable[Peer]) -> set[str]:
    """The keys of nodes' labels that peers ask for."""
    selectors = (peer for peer in peers if isinstance(peer, Selector))
    keys = {each.key for selector in selectors for each in selector.requirements}
    return {key.removeprefix(NODE_SOURCE) for key in keys if key.startswith(NODE_SOURCE)}
