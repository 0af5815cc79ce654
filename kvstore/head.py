"""The key `head`: what the next append must follow. PURE.

Easy to get wrong: `next_seq` is one past the last event; a log without any has next_seq 1 and mod_revision 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from kilim.kvstore.commit import CHAIN_BYTES, CHAIN_START, Commit
from kilim.kvstore.errors import BeingRestored, LogBroken
from kilim.v1 import log_pb2

SCHEMA = 1
# Stands where a head should be while a log is restored: nobody can take the half of it for the whole.
RESTORING = log_pb2.Head(append_id="restore").SerializeToString()


@dataclass(frozen=True, slots=True)
class LogHead:
    """`mod_revision` is etcd's, of the key: the guard of the next append."""

    next_seq: int
    chain: bytes
    mod_revision: int
    append_id: str

    @property
    def last_seq(self) -> int:
        return self.next_seq - 1

    @property
    def writer(self) -> str:
        """Who made the last commit; `EventLog.writer` of an own one."""
        return self.append_id.rpartition("-")[0]


EMPTY_HEAD = LogHead(next_seq=1, chain=CHAIN_START, mod_revision=0, append_id="")


def head_after(commit: Commit) -> LogHead:
    """The head that was put with the commit."""
    return LogHead(commit.last_seq + 1, commit.chain_after, commit.revision, commit.append_id)


def encode_head(head: LogHead) -> bytes:
    message = log_pb2.Head(next_seq=head.next_seq, chain=head.chain, append_id=head.append_id, schema=SCHEMA)
    return message.SerializeToString()


def is_restoring(value: bytes) -> bool:
    return value == RESTORING


def decode_head(value: bytes, mod_revision: int) -> LogHead:
    """Raises LogBroken where the value is no head, or one of a layout that we do not know; BeingRestored."""
    if is_restoring(value):
        raise BeingRestored("a restore of the log was begun and has not ended: wait for it, or begin it again")
    try:
        message = log_pb2.Head.FromString(value)
    except DecodeError as error:
        raise LogBroken(0, f"the key head holds no head: {error}") from error
    if message.schema != SCHEMA:
        raise LogBroken(message.next_seq, f"the log has schema {message.schema}, we know {SCHEMA}")
    if message.next_seq < 1 or len(message.chain) != CHAIN_BYTES:
        raise LogBroken(message.next_seq, "the key head holds no valid head")
    return LogHead(message.next_seq, message.chain, mod_revision, message.append_id)
