"""What other nodes know a node by: an identity of its own as soon as something tells it from other nodes.

Easy to get wrong:
1. What tells nodes apart is what policies name of them (`node_terms.py`), so where none does nodes cost nothing; with
   the setting `enable-node-selector-labels` all their labels.
2. As with pods (`membership.py`): a node's identity comes before the policy that asks for it, and goes after it, at
   once where the change is small, else by `WithdrawMemberships` after a while.
"""

from dataclasses import replace
from typing import NamedTuple

from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.identity import ensure_ipv6_world, identity_for
from kilim.controlplane.decide.node_terms import NodeTerms, identity_labels, terms_of
from kilim.controlplane.decide.view import View
from kilim.model.address import Cidr
from kilim.model.nouns import Node, Policy, node_to_pb
from kilim.model.settings import NODE_SELECTOR_LABELS, TRUE
from kilim.model.state import State
from kilim.v1 import events_pb2 as pb

AT_ONCE = 500  # events; well below what a commit holds


class NewTerms(NamedTuple):
    keys: set[str]
    prefixes: list[Cidr]


def put_node(draft: Draft, wanted: Node, every_label: bool | None = None) -> None:
    """Complete `wanted` with its identity, and emit what is new about it. `every_label`: of its labels all count."""
    draft.step()
    if wanted.ipv6:
        ensure_ipv6_world(draft)
    every = _every_label(draft.state) if every_label is None else every_label
    labels = draft.view.node_terms.labels_of(wanted, every) | draft.node_terms_to_come.labels_of(wanted, False)
    named = identity_labels(labels)
    wanted = replace(wanted, identity=identity_for(draft, named) if named else 0)
    before = draft.state.nodes.get(wanted.name)
    if before is None:
        draft.emit(pb.NodeJoined(node=node_to_pb(wanted)))
    elif before != wanted:
        draft.emit(pb.NodeUpdated(node=node_to_pb(wanted)))


def announce_to_nodes(draft: Draft, policy: Policy) -> NewTerms:
    """What a policy to come names of nodes and no other does; of several policies all before nodes are admitted."""
    named, to_come = draft.view.node_terms, draft.node_terms_to_come
    keys, prefixes = terms_of(draft.view.parts_of(policy))
    keys = {key for key in keys if key not in named.keys and key not in to_come.keys}
    fresh = [each for each in prefixes if each not in named.prefixes and each not in to_come.prefixes]
    to_come.count(keys, fresh, 1)
    return NewTerms(keys, fresh)


def admit_nodes(draft: Draft, announced: NewTerms) -> None:
    """Tell the nodes apart by that."""
    nodes = draft.state.nodes
    inside = {
        name
        for ip, name in draft.view.node_at.items()
        if announced.keys or any(each.contains_ip(ip) for each in announced.prefixes)
    }
    for name in sorted(inside, key=lambda name: nodes[name].ips):
        put_node(draft, nodes[name])


def let_go_of_nodes(draft: Draft) -> None:
    """Take from nodes what no policy tells them apart by any more, of as many as leave the change small."""
    draft.node_terms_to_come = NodeTerms()
    for number in unneeded_node_identities(draft.view):
        for name in sorted(draft.view.nodes_of_identity[number]):
            if len(draft.events) >= AT_ONCE:
                return
            put_node(draft, draft.state.nodes[name])


def unneeded_node_identities(view: View) -> list[int]:
    """Those that nodes have and that say more or less of them than is asked for; sorted."""
    every = _every_label(view.state)
    found = []
    for number, names in sorted(view.nodes_of_identity.items()):
        node = view.state.nodes[min(names)]
        known = view.state.identities.get(number)
        if known is None or known.labels != identity_labels(view.node_terms.labels_of(node, every)):
            found.append(number)
    return found


def tell_nodes_apart(draft: Draft, by_every_label: bool) -> None:
    """As the setting will be."""
    for name in sorted(draft.state.nodes):
        put_node(draft, draft.state.nodes[name], by_every_label)


def _every_label(state: State) -> bool:
    return NODE_SELECTOR_LABELS.read(state) == TRUE
