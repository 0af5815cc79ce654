"""Sets of protocols and ports as sorted ranges, so that what two sets of rows let through can be compared exactly.

A visitor would get wrong: ICMP and ICMPv6 have their types where others have ports, 0..255. Protocol 0 stands for all
protocols but those named here (rows of policy name no others), and in such a set it has the one range 0..65535 or none.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kilim.model.protocols import PROTOCOL_NUMBERS, WITH_TYPES
from kilim.model.tables import PolicyKey, PolicyRows
from kilim.model.verdict import ALLOWED, judge_rows

OTHERS = 0
LAST_PORT = 0xFFFF
_LAST_TYPE = 0xFF
_SAMPLE_OF_OTHERS = 2  # IGMP; no row names it
_PROTOCOLS = (OTHERS, *sorted(PROTOCOL_NUMBERS.values()))


class Range(NamedTuple):
    protocol: int
    first: int
    last: int


L4Set = tuple[Range, ...]  # sorted, neither overlapping nor touching

NOTHING: L4Set = ()


def last_of(protocol: int) -> int:
    """The last port, or type."""
    return _LAST_TYPE if protocol in WITH_TYPES else LAST_PORT


def sample_of(one: Range) -> tuple[int, int]:
    """A protocol and port in a range."""
    return one.protocol or _SAMPLE_OF_OTHERS, one.first


EVERYTHING: L4Set = tuple(Range(protocol, 0, last_of(protocol)) for protocol in _PROTOCOLS)


def stretches(keys: Iterable[PolicyKey]) -> Iterator[Range]:
    """All protocols and ports, cut wherever one of the rows begins or ends: all of a stretch is alike to them."""
    starts: dict[int, set[int]] = {protocol: {0} for protocol in _PROTOCOLS}
    for key in keys:
        if key.port_prefix_len and key.protocol in starts:
            starts[key.protocol] |= {key.port, key.port + (1 << (16 - key.port_prefix_len))}
    for protocol in _PROTOCOLS:
        last = last_of(protocol)
        edges = [*sorted(start for start in starts[protocol] if start <= last), last + 1]
        for first, after in zip(edges, edges[1:], strict=False):
            yield Range(protocol, first, after - 1)


def allowed_by(flags: int, rows: PolicyRows, direction: int, peer: int) -> L4Set:
    """What a subject with these flags lets through; `rows` are those for the peer and for any peer, or more."""
    return _joined(_allowed_ranges(flags, rows, direction, peer))


def _allowed_ranges(flags: int, rows: PolicyRows, direction: int, peer: int) -> Iterator[Range]:
    for stretch in stretches(rows):
        if judge_rows(flags, rows, direction, peer, *sample_of(stretch)) == ALLOWED:
            yield stretch


def both(one: L4Set, other: L4Set) -> L4Set:
    if one is other or other is EVERYTHING:
        return one
    if one is EVERYTHING:
        return other
    found = []
    for a in one:
        for b in other:
            if a.protocol == b.protocol and a.first <= b.last and b.first <= a.last:
                found.append(Range(a.protocol, max(a.first, b.first), min(a.last, b.last)))
    return _joined(found)


def without(one: L4Set, other: L4Set) -> L4Set:
    return one if not other else both(one, _complement(other)) if one else NOTHING


def contains(one: L4Set, protocol: int, port: int) -> bool:
    """Of a protocol without ports the port does not matter."""
    known = protocol if protocol in _PROTOCOLS else OTHERS
    number = port if known else 0
    return any(each.protocol == known and each.first <= number <= each.last for each in one)


def _complement(one: L4Set) -> L4Set:
    found = []
    for protocol in _PROTOCOLS:
        start = 0
        for each in one:
            if each.protocol == protocol:
                if each.first > start:
                    found.append(Range(protocol, start, each.first - 1))
                start = each.last + 1
        if start <= last_of(protocol):
            found.append(Range(protocol, start, last_of(protocol)))
    return tuple(found)


def _joined(ranges: Iterable[Range]) -> L4Set:
    joined: list[Range] = []
    for each in sorted(ranges):
        last = joined[-1] if joined else None
        if last is not None and last.protocol == each.protocol and each.first <= last.last + 1:
            joined[-1] = Range(each.protocol, last.first, max(last.last, each.last))
        else:
            joined.append(each)
    return tuple(joined)
