"""Which rules decided what the datapath has recorded, by identities. PURE.

Easy to get wrong: a record has the packet's ends, while policy speaks of the connection's: of a reply that is refused
the subject of the ingress side is the sender. Records do not say which they are, so what gives the recorded reason is
taken; where neither does, policy is another one by now, and nobody is named.
"""

from collections.abc import Iterator
from typing import NamedTuple

from kilim.model.facts import Facts
from kilim.model.resolve import Resolution, resolve
from kilim.model.rules import Origin
from kilim.model.tables import INGRESS, NORMAL, tier_flag
from kilim.model.verdict import NO_SUBJECT, POLICY_DENIED, POLICY_DENY, judge_tiers

REASONS = (POLICY_DENIED, POLICY_DENY)  # those that are policy's


class Recorded(NamedTuple):
    """`*_is_ours`: an endpoint of this node. Ports as in the record: of ICMP the id, and the type."""

    reason: str
    direction: int
    source: int
    destination: int
    source_is_ours: bool
    destination_is_ours: bool
    protocol: int
    source_port: int
    destination_port: int


class RecordRules:
    """Of one moment of `facts`, which know the subjects."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._resolutions: dict[int, Resolution] = {}

    def of(self, record: Recorded) -> tuple[Origin, ...] | None:
        """The rules of the deciding row; where none allows it, the policies that isolate the subject, without section.
        None: what is in force now says otherwise."""
        for subject, peer, port in _sides(record):
            reason, origins = self._judge(subject, record.direction, peer, record.protocol, port)
            if reason == record.reason:
                return origins
        return None

    def _judge(
        self, subject: int, direction: int, peer: int, protocol: int, port: int
    ) -> tuple[str, tuple[Origin, ...]]:
        if not self._facts.knows(subject):
            return NO_SUBJECT, ()
        if subject not in self._resolutions:
            self._resolutions[subject] = resolve(self._facts, subject)
        found = self._resolutions[subject]
        reason, counted = judge_tiers(found.flags, found.rows, direction, peer, protocol, port)
        if reason == POLICY_DENIED:
            return reason, tuple(self._isolating(subject, direction))
        return reason, found.origins_of(counted[-1] if counted else ())

    def _isolating(self, subject: int, direction: int) -> Iterator[Origin]:
        names = dict.fromkeys(
            (policy.kind, policy.namespace, policy.name)
            for policy in self._facts.policies_of(subject)
            if policy.flags & tier_flag(NORMAL, direction)
        )
        return (Origin(*name, "", 0) for name in names)


def _sides(record: Recorded) -> Iterator[tuple[int, int, int]]:
    """(subject, peer, port): as the first packet of a connection, and as a reply."""
    there = record.destination, record.source, record.destination_is_ours
    here = record.source, record.destination, record.source_is_ours
    first, reply = (there, here) if record.direction == INGRESS else (here, there)
    if first[2]:
        yield *first[:2], record.destination_port
    if reply[2]:
        yield *reply[:2], record.source_port
