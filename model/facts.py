"""What policy resolution asks about a cluster, and the plain answers straight from a State.

A visitor would get wrong: `StateFacts` is the definition, slow and obvious; `PolicyIndex` gives the same answers from
indexes. Identity number 0 never counts as a peer: in a row, 0 is any peer.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from kilim.model.compile import compile_policy
from kilim.model.identity import ANY_PEER, HEALTH, RESERVED, Identity
from kilim.model.labels import label_map
from kilim.model.nouns import NamedPort
from kilim.model.rules import Peer, PolicyRules, peer_matches
from kilim.model.service_index import Services
from kilim.model.settings import ENABLE_POLICY, allows_localhost
from kilim.model.state import State


class Facts(Protocol):
    @property
    def enforcement(self) -> str:
        """The setting `enable-policy`: default, always or never."""

    @property
    def allows_localhost(self) -> bool:
        """Whether a node reaches its own pods without a rule."""

    def knows(self, identity: int) -> bool:
        """Whether its labels are known: the log has this identity, or it is reserved."""

    def policies_of(self, subject: int) -> Sequence[PolicyRules]:
        """Those that select the subject, in the order of their keys."""

    def selected(self, peer: Peer) -> AbstractSet[int]:
        """The identities that a peer of a rule selects."""

    def named_ports(self, identity: int) -> AbstractSet[NamedPort]:
        """What the endpoints of an identity offer, all together."""

    def identities_with_ports(self) -> Iterable[int]:
        """Those with at least one named port."""


class StateFacts:
    """Facts of one state at rest; do not change the state while using it."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.enforcement = ENABLE_POLICY.read(state)
        self.allows_localhost = allows_localhost(state)
        self._identities: dict[int, Identity] = RESERVED | dict(state.identities)
        services = Services(state)
        self._policies = [
            part for key in sorted(state.policies) for part in compile_policy(state.policies[key], services)
        ]
        self._selected: dict[Peer, frozenset[int]] = {}

    def knows(self, identity: int) -> bool:
        return identity in self._identities

    def policies_of(self, subject: int) -> Sequence[PolicyRules]:
        if subject == HEALTH:
            return []
        labels = label_map(self._identities[subject].labels)
        return [policy for policy in self._policies if policy.subjects.matches(labels)]

    def selected(self, peer: Peer) -> AbstractSet[int]:
        if peer not in self._selected:
            matching = (number for number, each in self._identities.items() if peer_matches(peer, each))
            self._selected[peer] = frozenset(matching) - {ANY_PEER}
        return self._selected[peer]

    def named_ports(self, identity: int) -> AbstractSet[NamedPort]:
        keys = self._state.endpoints_of_identity.get(identity, set())
        return {port for key in keys for port in self._state.endpoints[key].named_ports}

    def identities_with_ports(self) -> Iterable[int]:
        return [each for each in self._state.endpoints_of_identity if each != ANY_PEER and self.named_ports(each)]
