"""One append as a value: its records, their numbers and the digest chain through them. PURE, agents import it too.

Easy to get wrong: `encoded` is the truth that is stored and passed on; never re-serialise a decoded commit (I2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from google.protobuf.message import DecodeError

from kilim.kvstore.errors import LogBroken, TooLarge
from kilim.v1 import log_pb2

CHAIN_BYTES = 32
CHAIN_START = bytes(CHAIN_BYTES)

# An encoded commit stays under this; etcd's own limit is 1.5 MiB a request, head and keys included.
COMMIT_BYTES_MAX = 1 << 20
# Bounds how far before a seq the commit that contains it can start.
COMMIT_RECORDS_MAX = 4096
# first_seq (≤ 11), two digests (34 each), append id (≤ 66), with room to spare.
_ENVELOPE_BYTES = 256
# Tag and length of a record below 2 MiB.
_RECORD_OVERHEAD_BYTES = 4


@dataclass(frozen=True, slots=True)
class Commit:
    """Records first_seq … last_seq, all or none of them."""

    first_seq: int
    chain_before: bytes
    records: tuple[bytes, ...]
    chain_after: bytes
    append_id: str
    encoded: bytes
    revision: int = field(default=0, compare=False)
    """etcd's, of the transaction that wrote it and the head with it; 0 where it does not come from etcd."""

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.records) - 1


def chain_next(chain: bytes, record: bytes) -> bytes:
    """chain(n) from chain(n-1) and record n."""
    return blake2b(chain + record, digest_size=32).digest()


def chain_over(chain: bytes, records: Iterable[bytes]) -> bytes:
    """The chain after all of `records`."""
    for record in records:
        chain = blake2b(chain + record, digest_size=32).digest()
    return chain


def encode_commit(first_seq: int, chain_before: bytes, records: Iterable[bytes], append_id: str = "") -> Commit:
    """Does not look at sizes: `EventLog.append` refuses what is too large, `split_records` avoids it."""
    if first_seq < 1 or len(chain_before) != CHAIN_BYTES:
        raise ValueError("a commit starts at seq 1 or later and follows a chain digest of 32 bytes")
    held = tuple(records)
    if not held:
        raise ValueError("a commit holds at least one record")
    chain_after = chain_over(chain_before, held)
    message = log_pb2.Commit(
        first_seq=first_seq,
        chain_before=chain_before,
        records=held,
        chain_after=chain_after,
        append_id=append_id,
    )
    encoded = message.SerializeToString()
    return Commit(first_seq, chain_before, held, chain_after, append_id, encoded)


def decode_commit(encoded: bytes, revision: int = 0) -> Commit:
    """Reads, does not verify. Raises LogBroken where the bytes are no commit at all."""
    try:
        message = log_pb2.Commit.FromString(encoded)
    except DecodeError as error:
        raise LogBroken(0, f"not a commit: {error}") from error
    return Commit(
        message.first_seq,
        message.chain_before,
        tuple(message.records),
        message.chain_after,
        message.append_id,
        encoded,
        revision,
    )


def verify_commit(commit: Commit, expected_first_seq: int, expected_chain_before: bytes) -> None:
    """Raises LogBroken unless the commit follows exactly what came before it and is whole in itself (I3)."""
    seq = commit.first_seq
    if seq != expected_first_seq:
        kind = "a gap" if seq > expected_first_seq else "a repeat"
        raise LogBroken(expected_first_seq, f"{kind}: the commit starts at seq {seq}")
    if not commit.records:
        raise LogBroken(seq, "the commit is empty")
    if commit.chain_before != expected_chain_before:
        raise LogBroken(seq, f"the commit follows chain {commit.chain_before.hex()}, not {expected_chain_before.hex()}")
    chain = chain_over(commit.chain_before, commit.records)
    if chain != commit.chain_after:
        raise LogBroken(seq, f"its records give chain {chain.hex()}, the commit claims {commit.chain_after.hex()}")


def split_records(records: Sequence[bytes]) -> Iterator[list[bytes]]:
    """The same records in the same order, in groups that each fit one commit. Raises TooLarge for a record
    that fits none."""
    group: list[bytes] = []
    size = _ENVELOPE_BYTES
    for record in records:
        cost = len(record) + _RECORD_OVERHEAD_BYTES
        if cost + _ENVELOPE_BYTES >= COMMIT_BYTES_MAX:
            raise TooLarge(f"a record of {len(record)} bytes; a commit holds less than {COMMIT_BYTES_MAX}")
        if group and (size + cost >= COMMIT_BYTES_MAX or len(group) >= COMMIT_RECORDS_MAX):
            yield group
            group, size = [], _ENVELOPE_BYTES
        group.append(record)
        size += cost
    if group:
        yield group
