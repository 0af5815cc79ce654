"""A state as canonical bytes and back: the same state gives the same parts on every machine (I4).

Easy to get wrong: `freeze` is cheap and must be made at one moment; `encode_parts` may take its time afterwards, when
the state has moved on. A part is a list of serialized StateRecords, in order of (table, key).
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import NamedTuple

from kilim.model.state import Key, State, key_to_bytes
from kilim.v1 import events_pb2 as pb

PART_BYTES = 512 << 10
_RECORD_OVERHEAD_BYTES = 4
_OF_ENDPOINT = pb.StateRecord(table="endpoint").SerializeToString()


class Frozen(NamedTuple):
    """What a state held at `seq`; the values are shared with it, they are immutable."""

    seq: int
    state_digest: bytes
    tables: dict[str, dict[Key, bytes]]


def freeze(state: State) -> Frozen:
    """Some milliseconds at 100,000 endpoints."""
    return Frozen(state.seq, state.digest, {name: dict(data) for name, data in state.data().items()})


def encode_parts(frozen: Frozen, part_bytes: int = PART_BYTES) -> Iterator[list[bytes]]:
    """Lists of records, each of about `part_bytes`; none for an empty state."""
    records: list[bytes] = []
    size = 0
    for table, key, value in _canonical(frozen):
        record = pb.StateRecord(table=table, key=key, value=value).SerializeToString(deterministic=True)
        records.append(record)
        size += len(record) + _RECORD_OVERHEAD_BYTES
        if size >= part_bytes:
            yield records
            records, size = [], 0
    if records:
        yield records


def decode_records(records: Iterable[bytes]) -> Iterator[tuple[str, bytes, bytes]]:
    """(table, key, value) of each, for `State.load`. Raises DecodeError for what is no record."""
    for record in map(pb.StateRecord.FromString, records):
        yield record.table, record.key, record.value


def without_endpoints(records: Sequence[bytes], but: Collection[bytes]) -> Iterator[bytes]:
    """The records but for those of endpoints in which none of the byte strings `but` stands: far cheaper than to decode
    100,000 for a few. Records are canonical, so a key or a field has one form, which `endpoint_field` gives."""
    marked = _with_marks(records, but)
    for place, record in enumerate(records):
        if not record.startswith(_OF_ENDPOINT) or place in marked:
            yield record


def _with_marks(records: Sequence[bytes], marks: Iterable[bytes]) -> set[int]:
    """The places of the records in which one of the marks stands. All of them are searched as one string, which finds
    some too many (where a mark begins in one record and ends in the next) and none too few."""
    joined, ends = b"".join(records), list(accumulate(map(len, records)))
    found: set[int] = set()
    for mark in filter(None, marks):
        at = joined.find(mark)
        while at >= 0:
            place = bisect_right(ends, at)
            found.add(place)
            at = joined.find(mark, ends[place])
    return found


def endpoint_field(**field: int | bytes) -> bytes:
    """As it stands in the record of an endpoint that has it."""
    return pb.Endpoint(**field).SerializeToString()  # type: ignore[arg-type]


def hash_records(records: Iterable[bytes]) -> int:
    """The sum of their hashes; `digest_of` the sum over all parts is the state digest, without building the state."""
    total, parse, number = 0, pb.StateRecord.FromString, int.from_bytes
    for record in map(parse, records):  # `hash_entry`, without a call for each of 100,000
        key = record.key
        entry = b"%b%b%b%b" % (record.table.encode(), len(key).to_bytes(4, "big"), key, record.value)
        total += number(blake2b(entry, digest_size=32).digest(), "big")
    return total


def _canonical(frozen: Frozen) -> Iterator[tuple[str, bytes, bytes]]:
    # Keys of text sort as their UTF-8 does, numbers as their bytes in big-endian order.
    for table in sorted(frozen.tables):
        data = frozen.tables[table]
        for key in sorted(data):
            yield table, key_to_bytes(key), data[key]
