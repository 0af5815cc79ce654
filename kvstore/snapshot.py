"""A snapshot as values: its manifest and its parts, the same bytes in etcd and in files. PURE.

Easy to get wrong: what a part holds is opaque here; that it is the right state only its `state_digest` can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from google.protobuf.message import DecodeError

from kilim.kvstore.commit import CHAIN_BYTES
from kilim.kvstore.errors import SnapshotBroken
from kilim.v1 import log_pb2

DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class SnapshotManifest:
    """The state after event `seq`. `time_ns` is that event's, so that equal states have equal manifests."""

    seq: int
    chain: bytes
    state_digest: bytes
    time_ns: int
    part_digests: tuple[bytes, ...]
    bytes: int
    records: int


def part_digest(encoded: bytes) -> bytes:
    return blake2b(encoded, digest_size=DIGEST_BYTES).digest()


def encode_part(records: Sequence[bytes]) -> bytes:
    return log_pb2.SnapshotRecords(records=records).SerializeToString()


def decode_part(manifest: SnapshotManifest, number: int, encoded: bytes) -> list[bytes]:
    """Raises SnapshotBroken where these are not the bytes that the manifest names."""
    found, expected = part_digest(encoded), manifest.part_digests[number]
    if found != expected:
        raise SnapshotBroken(
            manifest.seq, f"part {number} has digest {found.hex()}, its manifest says {expected.hex()}"
        )
    return list(log_pb2.SnapshotRecords.FromString(encoded).records)


def describe_parts(
    seq: int, chain: bytes, state_digest: bytes, time_ns: int, parts: Iterable[Sequence[bytes]]
) -> SnapshotManifest:
    """The manifest of a snapshot with these parts."""
    digests, size, records = [], 0, 0
    for part in parts:
        encoded = encode_part(part)
        digests.append(part_digest(encoded))
        size += len(encoded)
        records += len(part)
    return SnapshotManifest(seq, chain, state_digest, time_ns, tuple(digests), size, records)


def encode_manifest(manifest: SnapshotManifest) -> bytes:
    return log_pb2.SnapshotManifest(
        seq=manifest.seq,
        chain=manifest.chain,
        state_digest=manifest.state_digest,
        time_ns=manifest.time_ns,
        part_digests=manifest.part_digests,
        bytes=manifest.bytes,
        records=manifest.records,
    ).SerializeToString()


def decode_manifest(seq: int, encoded: bytes) -> SnapshotManifest:
    """Of the snapshot that is called `seq`. Raises SnapshotBroken."""
    try:
        message = log_pb2.SnapshotManifest.FromString(encoded)
    except DecodeError as error:
        raise SnapshotBroken(seq, f"its manifest is none: {error}") from error
    digests = tuple(message.part_digests)
    if message.seq != seq:
        raise SnapshotBroken(seq, f"its manifest is that of seq {message.seq}")
    if len(message.chain) != CHAIN_BYTES or any(len(digest) != DIGEST_BYTES for digest in digests):
        raise SnapshotBroken(seq, "its manifest holds digests of the wrong length")
    return SnapshotManifest(
        seq, message.chain, message.state_digest, message.time_ns, digests, message.bytes, message.records
    )
