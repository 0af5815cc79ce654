"""Changing an address or a port, and the checksums over it by the difference (RFC 1624): one that was wrong stays as
wrong as it was."""

import struct
from typing import NamedTuple

from kilim.model.address import is_ipv6, mapped
from tests.datapath.model.packet import ICMP, ICMPV6, TCP, UDP

CHECKSUM_AT = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2}


class Part(NamedTuple):
    """Where something of an IP packet is in the frame. `protocol` 0: no header of a layer above is there."""

    ip: int
    l4: int
    protocol: int
    source: bool  # else the destination is changed


def mend(frame: bytearray, at: int, before: bytes, after: bytes, protocol: int = 0) -> None:
    """The checksum there. 0 is "none" in UDP and stays; nor does it become 0."""
    (old,) = struct.unpack_from(">H", frame, at)
    if protocol == UDP and not old:
        return
    total = (old ^ 0xFFFF) - _sum(before) + _sum(after)
    new = 0xFFFF - (total % 0xFFFF or 0xFFFF)
    struct.pack_into(">H", frame, at, 0xFFFF if protocol == UDP and not new else new)


def _sum(data: bytes) -> int:
    return sum(word for (word,) in struct.iter_unpack(">H", data))


def change_address(
    frame: bytearray, part: Part, before: int, after: int, *, only_checksum: bool = False, only_header: bool = False
) -> None:
    """In the IP header; and in the checksum of the layer above, but for ICMP of IPv4, which does not have it."""
    old, new = (mapped(ip) if is_ipv6(ip) else struct.pack(">I", ip) for ip in (before, after))
    checksum_at = CHECKSUM_AT.get(part.protocol)
    if not only_header and checksum_at is not None and (is_ipv6(before) or part.protocol != ICMP):
        mend(frame, part.l4 + checksum_at, old, new, part.protocol)
    if only_checksum:
        return
    if is_ipv6(before):
        at = part.ip + (8 if part.source else 24)
    else:
        at = part.ip + (12 if part.source else 16)
        mend(frame, part.ip + 10, old, new)
    frame[at : at + len(new)] = new


def change_port(frame: bytearray, part: Part, before: int, after: int, *, checksum: bool = True) -> None:
    """The id of an ICMP packet."""
    if before == after:
        return
    old, new = struct.pack(">H", before), struct.pack(">H", after)
    checksum_at = CHECKSUM_AT.get(part.protocol)
    if checksum and checksum_at is not None:
        mend(frame, part.l4 + checksum_at, old, new, part.protocol)
    at = part.l4 + (4 if part.protocol in (ICMP, ICMPV6) else 0 if part.source else 2)
    frame[at : at + 2] = new
