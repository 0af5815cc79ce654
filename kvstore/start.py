"""The key `start`: where the log begins since its oldest commits were trimmed. PURE.

Easy to get wrong: it is absent until the first trim; the log then begins at event 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from kilim.kvstore.commit import CHAIN_BYTES, CHAIN_START
from kilim.kvstore.errors import LogBroken
from kilim.v1 import log_pb2


@dataclass(frozen=True, slots=True)
class LogStart:
    """A commit starts at `first_seq`, unless the log ends before it. `mod_revision` guards the next trim."""

    first_seq: int
    chain_before: bytes
    mod_revision: int


FIRST_START = LogStart(first_seq=1, chain_before=CHAIN_START, mod_revision=0)


def encode_start(first_seq: int, chain_before: bytes) -> bytes:
    return log_pb2.LogStart(first_seq=first_seq, chain_before=chain_before).SerializeToString()


def decode_start(value: bytes, mod_revision: int) -> LogStart:
    """Raises LogBroken where the value is no start."""
    try:
        message = log_pb2.LogStart.FromString(value)
    except DecodeError as error:
        raise LogBroken(0, f"the key start holds no start: {error}") from error
    if message.first_seq < 1 or len(message.chain_before) != CHAIN_BYTES:
        raise LogBroken(message.first_seq, "the key start holds no valid start")
    return LogStart(message.first_seq, message.chain_before, mod_revision)
