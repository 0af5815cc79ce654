"""What etcd holds, as values of ours, and the arithmetic of its keys. PURE.

Easy to get wrong: `revision` of an answer is the store's at that time; only `mod_revision` says when a key changed.
"""

from __future__ import annotations

from dataclasses import dataclass

from kilim.etcd import rpc_pb2

Key = str | bytes


@dataclass(frozen=True, slots=True)
class KeyValue:
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int


@dataclass(frozen=True, slots=True)
class RangeResult:
    """`more`: the limit cut it short."""

    revision: int
    kvs: tuple[KeyValue, ...]
    more: bool
    count: int


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one key. Of a deleted key only `key` and `mod_revision` mean anything."""

    is_delete: bool
    kv: KeyValue


def key_bytes(key: Key) -> bytes:
    return key.encode() if isinstance(key, str) else key


def prefix_range(prefix: Key) -> tuple[bytes, bytes]:
    """[start, end) of all keys that start with `prefix`. etcd takes no empty key: b"\\0" is its word for the first key
    as a start, and for the end of everything as an end."""
    start = key_bytes(prefix)
    stripped = start.rstrip(b"\xff")
    end = stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b"\0"
    return start or b"\0", end


def decode_kv(kv: rpc_pb2.KeyValue) -> KeyValue:
    return KeyValue(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.lease)


def decode_range(response: rpc_pb2.RangeResponse) -> RangeResult:
    kvs = tuple(decode_kv(kv) for kv in response.kvs)
    return RangeResult(response.header.revision, kvs, response.more, response.count)


def decode_event(event: rpc_pb2.Event) -> Event:
    return Event(event.type == rpc_pb2.Event.DELETE, decode_kv(event.kv))
