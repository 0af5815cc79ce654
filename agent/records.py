"""The records of the datapath's ring buffer, decoded. Pure.

`EVENT` is `struct event` of bpf/lib/events.h; `agent/bpf/layout.py` checks it against the loaded object (I12).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kilim.model.address import from_mapped_or_zeros

EVENT = np.dtype(
    [
        ("time_ns", "=u8"),
        ("src_ip", "V16"),
        ("dst_ip", "V16"),
        ("src_port", ">u2"),
        ("dst_port", ">u2"),
        ("protocol", "u1"),
        ("tcp_flags", "u1"),
        ("type", "u1"),
        ("direction", "u1"),
        ("src_identity", "=u4"),
        ("dst_identity", "=u4"),
        ("length", "=u4"),
        ("ifindex", "=u4"),
        ("reason", "=u2"),
        ("endpoint_id", "=u2"),
        ("flags", "=u4"),
    ]
)

Events = npt.NDArray[np.void]

CONNECTION = 1
DROP = 2
AUDIT = 3

SRC_LOCAL = 1
DST_LOCAL = 2

VERDICT_NAMES = {CONNECTION: "FORWARDED", DROP: "DROPPED", AUDIT: "AUDIT"}
DIRECTION_NAMES = ("INGRESS", "EGRESS")

FORWARDED = 0
RECORDS_LOST = 1
AUDITED = 2

# The part of Hubble's DropReason (flow.proto) that the datapath gives; enum drop_reason of bpf/lib/reasons.h.
REASON_NAMES = {
    FORWARDED: "FORWARDED",
    RECORDS_LOST: "RECORDS_LOST",
    AUDITED: "AUDIT",
    130: "INVALID_SOURCE_MAC",
    132: "INVALID_SOURCE_IP",
    133: "POLICY_DENIED",
    134: "INVALID_PACKET_DROPPED",
    135: "CT_TRUNCATED_OR_INVALID_HEADER",
    137: "CT_UNKNOWN_L4_PROTOCOL",
    139: "UNSUPPORTED_L3_PROTOCOL",
    141: "ERROR_WRITING_TO_PACKET",
    147: "ERROR_RETRIEVING_TUNNEL_KEY",
    151: "STALE_OR_UNROUTABLE_IP",
    152: "NO_MATCHING_LOCAL_CONTAINER_FOUND",
    155: "CT_MAP_INSERTION_FAILED",
    156: "INVALID_IPV6_EXTENSION_HEADER",
    157: "IP_FRAGMENTATION_NOT_SUPPORTED",
    165: "NO_CONFIGURATION_AVAILABLE_TO_PERFORM_POLICY_DECISION",
    167: "NO_MAPPING_FOR_NAT_MASQUERADE",
    168: "UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE",
    170: "ENCAPSULATION_TRAFFIC_IS_PROHIBITED",
    175: "FIRST_LOGICAL_DATAGRAM_FRAGMENT_NOT_FOUND",
    176: "FORBIDDEN_ICMPV6_MESSAGE",
    181: "POLICY_DENY",
    182: "VLAN_FILTERED",
    183: "INVALID_VNI",
}


class Record(NamedTuple):
    """One event as Python values: the fields of EVENT, in their order. Addresses are 0 where it was dropped before they
    were read. Ports of ICMP: echo id, type."""

    time_ns: int
    src_ip: int
    dst_ip: int
    src_port: int
    dst_port: int
    protocol: int
    tcp_flags: int
    type: int
    direction: int
    src_identity: int
    dst_identity: int
    length: int
    ifindex: int
    reason: int
    endpoint_id: int
    flags: int

    @property
    def reason_name(self) -> str:
        return reason_name(self.reason)

    @property
    def verdict_name(self) -> str:
        """Hubble's."""
        return VERDICT_NAMES.get(self.type, "VERDICT_UNKNOWN")

    @property
    def direction_name(self) -> str:
        return DIRECTION_NAMES[self.direction & 1]


def reason_name(reason: int) -> str:
    """Hubble's name; the number for one this version does not know."""
    return REASON_NAMES.get(reason, f"REASON_{reason}")


def select_drops(events: Events) -> Events:
    return _of_type(events, DROP)


def select_audits(events: Events) -> Events:
    """What passes by audit mode alone; the reason is why it would not."""
    return _of_type(events, AUDIT)


def select_connections(events: Events) -> Events:
    return _of_type(events, CONNECTION)


def _of_type(events: Events, event_type: int) -> Events:
    selected: Events = events[events["type"] == event_type]
    return selected


def decode_records(events: Events) -> Iterator[Record]:
    """One by one, for those that someone wants to read; filter the array before."""
    rows: list[Any] = events.tolist()
    return (
        Record(time_ns, from_mapped_or_zeros(src), from_mapped_or_zeros(dst), *rest)
        for time_ns, src, dst, *rest in rows
    )


def decode_counts(events: Events) -> dict[tuple[int, int], int]:
    """How many drops per (reason, direction)."""
    drops = select_drops(events)
    if not len(drops):
        return {}
    pairs = drops["reason"].astype(np.uint32) * 2 + drops["direction"]
    values, counts = np.unique(pairs, return_counts=True)
    return {(int(v) // 2, int(v) % 2): int(n) for v, n in zip(values, counts, strict=True)}
