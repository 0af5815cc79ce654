"""What policies and selectors come to in a state: the endpoints they select, the rows they make, who uses a selector.

A visitor would get wrong: a row that several policies ask for counts for each of them, and on each node that has an
endpoint of its subject; the rows that are built in are nobody's.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from kilim.model.cidr_group import GROUP_NAME
from kilim.model.compile import parts_as_written
from kilim.model.explain import PolicyName
from kilim.model.facts import StateFacts
from kilim.model.identity import is_of_pods
from kilim.model.nouns import decode_policy
from kilim.model.reach import Reach
from kilim.model.rules import CidrPeer, GroupPeer, Peer, PolicyRules
from kilim.model.selector import Selector
from kilim.model.service_index import Services
from kilim.model.service_reference import ServiceReference
from kilim.model.state import State


@dataclass(slots=True)
class PolicyUse:
    name: PolicyName
    tier: int
    priority: int
    endpoints: int = 0
    subjects: list[int] = field(default_factory=list)  # identities with endpoints that it selects
    rows: Counter[str] = field(default_factory=Counter)  # by node


class SelectorUse(NamedTuple):
    """`identities` that it selects; the policies that select their subjects with it, or the peers of a rule."""

    selector: str
    identities: tuple[int, ...]
    subjects_of: tuple[PolicyName, ...]
    peers_of: tuple[PolicyName, ...]


def policy_uses(state: State) -> list[PolicyUse]:
    """In the order of their keys; one for each object, whatever number of parts it has."""
    uses: dict[PolicyName, PolicyUse] = {}
    for part in _parts_as_written(state):
        uses.setdefault(name_of(part), PolicyUse(name_of(part), part.tier, part.priority))
    reach = Reach(state)
    for subject, keys in sorted(state.endpoints_of_identity.items()):
        if not keys or not reach.facts.knows(subject):
            continue
        selecting = {name_of(policy) for policy in reach.facts.policies_of(subject)}
        for name in selecting:
            uses[name].endpoints += len(keys)
            uses[name].subjects.append(subject)
        made = _rows_made(reach, subject) if selecting else {}
        for node in {state.endpoints[key].node for key in keys}:
            for name, count in made.items():
                uses[name].rows[node] += count
    return list(uses.values())


def selector_uses(state: State) -> list[SelectorUse]:
    """Each distinct selector once, by its text."""
    facts, services = StateFacts(state), Services(state)
    found: dict[Peer | ServiceReference, tuple[dict[PolicyName, None], dict[PolicyName, None]]] = {}
    for part in _parts_as_written(state):
        found.setdefault(part.subjects, ({}, {}))[0][name_of(part)] = None
        for rule in part.rules:
            for peer in (*(rule.peers or ()), *rule.services):
                found.setdefault(peer, ({}, {}))[1][name_of(part)] = None
    uses = []
    for peer, (subjects, peers) in found.items():
        inner = services.peers_of(peer) if isinstance(peer, ServiceReference) else (peer,)
        selected = {number for each in inner for number in facts.selected(each)}
        uses.append(SelectorUse(peer_text(peer), tuple(sorted(selected)), tuple(subjects), tuple(peers)))
    return sorted(uses)


def is_unused(state: State, number: int) -> bool:
    """An identity of pods that no endpoint has any more, or not yet."""
    identity = state.identities.get(number)
    return identity is not None and is_of_pods(identity) and not state.endpoints_of_identity.get(number)


def name_of(rules: PolicyRules) -> PolicyName:
    return PolicyName(rules.kind, rules.namespace, rules.name)


def peer_text(peer: Peer | ServiceReference) -> str:
    """`k8s:app=web,k8s:io.kubernetes.pod.namespace=shop`, `cidr:10.0.0.0/8 except 10.1.0.0/16`, `service shop/db`"""
    if isinstance(peer, ServiceReference):
        return str(peer)
    if isinstance(peer, Selector):
        return str(peer) or "everybody"
    excepted = f" except {', '.join(map(str, peer.excepts))}" if peer.excepts else ""
    if isinstance(peer, GroupPeer):
        return f"CiliumCIDRGroup {_groups_text(peer.groups) or 'any'}{excepted}"
    return f"cidr:{peer.cidr}{excepted}{_holding(peer)}"


def _groups_text(groups: Selector) -> str:
    """`vpn` by its name, else labels."""
    names = [each.values[0] for each in groups.requirements if each.key == GROUP_NAME]
    return names[0] if names else str(groups)


def _holding(peer: CidrPeer) -> str:
    words = [word for word, holds in (("pods", peer.pods), ("nodes", peer.nodes)) if holds]
    return f" with {' and '.join(words)}" if words else ""


def _parts_as_written(state: State) -> list[PolicyRules]:
    return [
        part
        for key in sorted(state.policies.data)
        for part in parts_as_written(decode_policy(state.policies.data[key]))
    ]


def _rows_made(reach: Reach, subject: int) -> Counter[PolicyName]:
    made: Counter[PolicyName] = Counter()
    for origins in reach.resolution(subject).provenance.values():
        made.update({PolicyName(*origin[:3]) for origin in origins if origin.section})
    return made
