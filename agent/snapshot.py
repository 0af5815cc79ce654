"""A state as records and back: what a replica sends to a newcomer, and what the disk cache holds. PURE."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kilim.model.state import Key, State, Table, key_to_bytes
from kilim.v1 import controlplane_pb2 as pb
from kilim.v1 import events_pb2

_PART_BYTES = 512 << 10


@dataclass(frozen=True, slots=True)
class Frozen:
    """A state as of `seq`; a later `generation` makes writing it needless."""

    tables: dict[str, dict[Key, bytes]]
    seq: int
    chain: bytes
    state_digest: bytes
    generation: int


def copy_tables(state: State) -> dict[str, dict[Key, bytes]]:
    """A cheap copy: the values are shared, they are immutable."""
    every: tuple[Table[Any, Any], ...] = (
        state.nodes, state.identities, state.endpoints, state.policies, state.namespaces, state.pods, state.settings,
    )  # fmt: skip
    return {table.name: dict(table.data) for table in every}


def encode_parts(frozen: Frozen) -> Iterator[pb.SnapshotPart]:
    records: list[bytes] = []
    size = 0
    for name in sorted(frozen.tables):
        for key, value in frozen.tables[name].items():
            record = events_pb2.StateRecord(table=name, key=key_to_bytes(key), value=value).SerializeToString()
            records.append(record)
            size += len(record)
            if size >= _PART_BYTES:
                yield _part(frozen, records, last=False)
                records, size = [], 0
    yield _part(frozen, records, last=True)


def _part(frozen: Frozen, records: list[bytes], *, last: bool) -> pb.SnapshotPart:
    # A message of its own each time: one that is emptied and filled again keeps the memory of all it ever held.
    return pb.SnapshotPart(
        seq=frozen.seq, chain=frozen.chain, state_digest=frozen.state_digest, records=records, last=last
    )


def decode_records(part: pb.SnapshotPart) -> Iterator[tuple[str, bytes, bytes]]:
    for record in map(events_pb2.StateRecord.FromString, part.records):
        yield record.table, record.key, record.value
