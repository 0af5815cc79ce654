"""The parts of `EtcdClient.transaction(compare, success, failure)` and its answer. PURE.

Easy to get wrong: etcd takes 128 operations in a transaction, and no key may be written twice in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kilim.etcd import rpc_pb2
from kilim.kvstore.keyvalue import Key, KeyValue, decode_kv, key_bytes

Compare = rpc_pb2.Compare
Operation = rpc_pb2.RequestOp


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """`found[i]` is what the i-th operation of the branch that ran has read; () for a write. `repeated`: an earlier
    try went unanswered, so that a failed compare may be our own doing."""

    succeeded: bool
    revision: int
    found: tuple[tuple[KeyValue, ...], ...]
    repeated: bool


def mod_revision_is(key: Key, mod_revision: int) -> Compare:
    """0: the key does not exist."""
    return Compare(result=Compare.EQUAL, target=Compare.MOD, key=key_bytes(key), mod_revision=mod_revision)


def mod_revision_at_least(key: Key, mod_revision: int) -> Compare:
    return Compare(result=Compare.GREATER, target=Compare.MOD, key=key_bytes(key), mod_revision=mod_revision - 1)


def range_unchanged_since(start: Key, end: Key, revision: int) -> Compare:
    """No key that is in [start, end) now was put after `revision`; of keys that were deleted it says nothing."""
    return Compare(
        result=Compare.LESS, target=Compare.MOD, key=key_bytes(start), range_end=key_bytes(end),
        mod_revision=revision + 1,
    )  # fmt: skip


def value_is(key: Key, value: bytes) -> Compare:
    return Compare(result=Compare.EQUAL, target=Compare.VALUE, key=key_bytes(key), value=value)


def put(key: Key, value: bytes, lease: int = 0) -> Operation:
    return Operation(request_put=rpc_pb2.PutRequest(key=key_bytes(key), value=value, lease=lease))


def get(key: Key) -> Operation:
    return Operation(request_range=rpc_pb2.RangeRequest(key=key_bytes(key)))


def delete(key: Key) -> Operation:
    return Operation(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key_bytes(key)))


def delete_range(start: Key, end: Key) -> Operation:
    """[start, end)."""
    return Operation(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key_bytes(start), range_end=key_bytes(end)))


def encode_transaction(
    compare: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation]
) -> rpc_pb2.TxnRequest:
    return rpc_pb2.TxnRequest(compare=compare, success=success, failure=failure)


def decode_transaction(response: rpc_pb2.TxnResponse, repeated: bool) -> TransactionResult:
    found = tuple(tuple(decode_kv(kv) for kv in one.response_range.kvs) for one in response.responses)
    return TransactionResult(response.succeeded, response.header.revision, found, repeated)
