"""What the datapath would say to the first packet of a connection, from the tables alone.

A visitor would get wrong: replies are not asked about (connection tracking lets them through), and the tables of the
sender's and of the receiver's node are different tables; None stands for an end that is no endpoint of ours.

1. An endpoint always reaches itself: such packets never leave it.
2. Egress at the sender's node, then ingress at the receiver's; the first that drops decides.
3. The sender's identity is that of its endpoint (it travels in the VNI between nodes), else what the receiver's ipcache
   says; the receiver's is what the sender's ipcache says; an address without a row is the world of its family.
4. A subject without a row is closed, and so is one that the log does not know.
   What the policy of an audited endpoint refuses passes all the same; the first refusal of the kind is told.
5. Tiers speak one after the other, as far as the subject's flags name them for the direction. Of the rows for the peer
   the one with the longest match, and the same for any peer: the greater value counts.
6. Allow and deny are final; pass, and no row, go on to the next tier. In NORMAL no row drops.
7. What no tier has decided passes.
"""

from dataclasses import dataclass

from kilim.model.address import host_length
from kilim.model.identity import ANY_PEER, world_of
from kilim.model.tables import (
    AUDITED,
    DENY,
    EGRESS,
    INGRESS,
    NORMAL,
    PASS,
    TIERS,
    UNKNOWN_SUBJECT,
    EndpointValue,
    IpcacheKey,
    PolicyKey,
    PolicyRows,
    Tables,
    action_of,
    tier_flag,
)

# Names as in Hubble (flow.proto, DropReason 133 and 181); NO_SUBJECT is counted as a policy drop there.
POLICY_DENIED = "POLICY_DENIED"
POLICY_DENY = "POLICY_DENY"
NO_SUBJECT = "NO_SUBJECT"
ALLOWED = "ALLOWED"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`direction` is the one that dropped, or would have but for audit mode; None where nothing objects."""

    allowed: bool
    direction: int | None
    reason: str
    source_identity: int
    destination_identity: int

    @property
    def audited(self) -> bool:
        """It passes by audit mode alone; `reason` is why it would not."""
        return self.allowed and self.reason != ALLOWED


def verdict(
    tables_source: Tables | None,
    tables_destination: Tables | None,
    source_ip: int,
    destination_ip: int,
    protocol: int,
    port: int,
) -> Verdict:
    """`port` is the destination port (ICMP, ICMPv6: the type)."""
    source = tables_source.endpoints.get(source_ip) if tables_source is not None else None
    destination = tables_destination.endpoints.get(destination_ip) if tables_destination is not None else None
    sender = source[1] if source is not None else identity_of(tables_destination, source_ip)
    receiver = destination[1] if destination is not None else world_of(destination_ip)
    passing: tuple[int | None, str] = None, ALLOWED
    if source_ip == destination_ip:
        return Verdict(True, *passing, sender, receiver)
    if tables_source is not None and source is not None:
        receiver = identity_of(tables_source, destination_ip)
        reason = _judge(tables_source, sender, EGRESS, receiver, protocol, port)
        if reason != ALLOWED and not is_audited(source, reason):
            return Verdict(False, EGRESS, reason, sender, receiver)
        if reason != ALLOWED:
            passing = EGRESS, reason
    if tables_destination is not None and destination is not None:
        receiver = destination[1]
        reason = _judge(tables_destination, receiver, INGRESS, sender, protocol, port)
        if reason != ALLOWED and not is_audited(destination, reason):
            return Verdict(False, INGRESS, reason, sender, receiver)
        if reason != ALLOWED and passing[0] is None:
            passing = INGRESS, reason
    return Verdict(True, *passing, sender, receiver)


def is_unknown(flags: int) -> bool:
    """Of a subject: the log does not know it."""
    return bool(flags & UNKNOWN_SUBJECT)


def is_audited(endpoint: EndpointValue, reason: str) -> bool:
    """Whether audit mode lets through what is refused for this reason: the word of policy alone (I9)."""
    return bool(endpoint.flags & AUDITED) and reason in (POLICY_DENIED, POLICY_DENY)


def identity_of(tables: Tables | None, ip: int) -> int:
    """World where no row covers the address."""
    key = None if tables is None else ipcache_match(tables, ip)
    return world_of(ip) if tables is None or key is None else tables.ipcache[key][0]


def ipcache_match(tables: Tables, ip: int) -> IpcacheKey | None:
    """The longest prefix that covers an address."""
    ipcache, whole = tables.ipcache, host_length(ip)
    for shift in range(whole + 1):
        key = (ip >> shift << shift, whole - shift)
        if key in ipcache:
            return key
    return None


def _judge(tables: Tables, subject: int, direction: int, peer: int, protocol: int, port: int) -> str:
    flags = tables.subjects.get(subject)
    if flags is None or is_unknown(flags):
        return NO_SUBJECT
    return judge_rows(flags, tables.policy.get(subject, {}), direction, peer, protocol, port)


def judge_rows(flags: int, rows: PolicyRows, direction: int, peer: int, protocol: int, port: int) -> str:
    """Of a subject with these flags and rows."""
    return judge_tiers(flags, rows, direction, peer, protocol, port)[0]


def judge_tiers(
    flags: int, rows: PolicyRows, direction: int, peer: int, protocol: int, port: int
) -> tuple[str, list[tuple[PolicyKey, ...]]]:
    """The reason, and tier by tier that had a row the rows that counted: all but the last passed the packet on."""
    counted = []
    for tier in TIERS:
        if not flags & tier_flag(tier, direction):
            continue
        found = [matching_key(rows, direction, each, protocol, port, tier) for each in dict.fromkeys((peer, ANY_PEER))]
        keys = [key for key in found if key is not None]
        if keys:
            value = max(rows[key] for key in keys)
            counted.append(tuple(key for key in keys if rows[key] == value))
            if action_of(value) != PASS:
                return (POLICY_DENY if action_of(value) == DENY else ALLOWED), counted
            if not value and tier == NORMAL:  # no row of ours: as good as none
                return POLICY_DENIED, counted
        elif tier == NORMAL:
            return POLICY_DENIED, counted
    return ALLOWED, counted


def matching_key(
    rows: PolicyRows, direction: int, peer: int, protocol: int, port: int, tier: int = NORMAL
) -> PolicyKey | None:
    """The row with the longest port prefix of this protocol, else of any protocol."""
    for prefix_len in range(16, -1, -1):
        masked = port & (0xFFFF << (16 - prefix_len)) & 0xFFFF
        key = PolicyKey(direction, peer, protocol, masked, prefix_len, tier)
        if key in rows:
            return key
    key = PolicyKey(direction, peer, 0, 0, 0, tier)
    return key if key in rows else None
