"""The verdict table of one endpoint: each row of its identity in words of policy, with the rules that asked for it.

A visitor would get wrong: rows are of the identity, so endpoints of one identity have the same ones; they are those
that a node which runs the endpoint should hold, not what a kernel does hold.
"""

from dataclasses import dataclass
from typing import NamedTuple

from kilim.model.explain import PolicyName, Row
from kilim.model.focus import Focus, Thing
from kilim.model.identity import RESERVED
from kilim.model.nouns import Endpoint
from kilim.model.reach import Reach
from kilim.model.rules import Origin
from kilim.model.state import State
from kilim.model.tables import PolicyKey, action_of


class PolicyEntry(NamedTuple):
    key: PolicyKey
    peer_labels: tuple[str, ...]  # none for any peer
    value: int
    origins: tuple[Origin, ...]

    @property
    def action(self) -> int:
        return action_of(self.value)

    @property
    def precedence(self) -> int:
        return self.value >> 2


@dataclass(frozen=True, slots=True)
class EndpointPolicy:
    endpoint: Endpoint
    labels: tuple[str, ...]
    is_known: bool  # the log has its identity; else it is closed
    flags: int
    entries: tuple[PolicyEntry, ...]

    def row_of(self, entry: PolicyEntry) -> Row:
        return Row(self.endpoint.node, "policy", (self.endpoint.identity, entry.key))

    def subject_row(self) -> Row:
        return Row(self.endpoint.node, "subjects", self.endpoint.identity)

    def things(self) -> list[Thing]:
        """Whatever may be asked since when it is so, each once."""
        rows: list[Thing] = [self.subject_row(), *(self.row_of(entry) for entry in self.entries)]
        origins = (origin for entry in self.entries for origin in entry.origins if origin.section)
        return list(dict.fromkeys([*rows, *(PolicyName(*origin[:3]) for origin in origins)]))

    def focus(self) -> Focus:
        """What all of them depend on."""
        peers = {entry.key.peer for entry in self.entries}
        return Focus(frozenset(self.endpoint.ips), frozenset({self.endpoint.identity, *peers}))


def endpoint_policy(state: State, key: str) -> EndpointPolicy:
    """Of the endpoint with that key in the state."""
    endpoint = state.endpoints[key]
    found = Reach(state).resolution(endpoint.identity)
    entries = tuple(
        PolicyEntry(row, labels_of(state, row.peer), found.rows[row], found.provenance.get(row, ()))
        for row in sorted(found.rows, key=lambda row: (row.direction, row.tier, *row))
    )
    known = endpoint.identity in state.identities or endpoint.identity in RESERVED
    return EndpointPolicy(endpoint, labels_of(state, endpoint.identity), known, found.flags, entries)


def labels_of(state: State, identity: int) -> tuple[str, ...]:
    if identity in state.identities:
        return state.identities[identity].labels
    return RESERVED[identity].labels if identity in RESERVED else ()


def endpoints_with_id(state: State, number: int, node: str | None) -> list[str]:
    """Keys of those that have it, on a node or on all."""
    every = sorted(state.endpoints.items())
    return [key for key, each in every if each.endpoint_id == number and node in (None, each.node)]
