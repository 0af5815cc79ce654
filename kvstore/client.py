"""The etcd client of this project, in etcd3's words, over grpc.aio.

Easy to get wrong: create and close it on the event loop that uses it, and never fork after it was made. Every read is
linearizable. For what a failed write means, see `errors.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import TypeVar

from kilim.etcd import rpc_pb2
from kilim.kvstore.calls import CALL_TIMEOUT_S, Attempt, Calls, Metadata, Repeat
from kilim.kvstore.endpoints import Endpoint, Tls
from kilim.kvstore.keyvalue import Event, Key, KeyValue, RangeResult, decode_range, key_bytes, prefix_range
from kilim.kvstore.lease import Lease, grant_lease
from kilim.kvstore.maintenance import EndpointStatus, Maintenance
from kilim.kvstore.transaction import (
    Compare,
    Operation,
    TransactionResult,
    decode_transaction,
    encode_transaction,
)
from kilim.kvstore.watch import Watch

__all__ = ["EtcdClient", "Tls"]

T = TypeVar("T")


class EtcdClient:
    """Endpoints are `http://h:p`, `https://h:p` or `h:p`; the last is TLS where `tls` is given."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        tls: Tls | None = None,
        user: str | None = None,
        password: str | None = None,
    ) -> None:
        self._calls = Calls(endpoints, tls, user, password)
        self.maintenance = Maintenance(self._calls)

    async def close(self) -> None:
        await self._calls.close()

    async def get(self, key: Key, *, revision: int = 0) -> KeyValue | None:
        found = await self._range(rpc_pb2.RangeRequest(key=key_bytes(key), revision=revision))
        return found.kvs[0] if found.kvs else None

    async def get_prefix(self, prefix: Key, *, limit: int = 0, revision: int = 0) -> RangeResult:
        start, end = prefix_range(prefix)
        return await self.get_range(start, end, limit=limit, revision=revision)

    async def get_range(
        self,
        start: Key,
        end: Key,
        *,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> RangeResult:
        """Keys in [start, end), sorted; an empty `end` is the one key. Bound `end`: etcd counts all of the range for
        every page, so that paging an open range by `limit` is quadratic."""
        request = rpc_pb2.RangeRequest(
            key=key_bytes(start), range_end=key_bytes(end), limit=limit, revision=revision, keys_only=keys_only
        )
        return await self._range(request, timeout_s)

    async def _range(self, request: rpc_pb2.RangeRequest, timeout_s: float = CALL_TIMEOUT_S) -> RangeResult:
        async def attempt(endpoint: Endpoint, attempt_s: float, metadata: Metadata) -> rpc_pb2.RangeResponse:
            return await endpoint.kv.Range(request, timeout=attempt_s, metadata=metadata)

        return decode_range(await self._call(attempt, Repeat.READ, timeout_s))

    async def put(self, key: Key, value: bytes, *, lease: int = 0) -> int:
        """Returns the revision. Tried again after an ambiguous try: a late first try can undo somebody's later put,
        so that keys with several writers want `transaction`."""
        request = rpc_pb2.PutRequest(key=key_bytes(key), value=value, lease=lease)

        async def attempt(endpoint: Endpoint, attempt_s: float, metadata: Metadata) -> rpc_pb2.PutResponse:
            return await endpoint.kv.Put(request, timeout=attempt_s, metadata=metadata)

        return (await self._call(attempt, Repeat.HARMLESS)).header.revision

    async def delete(self, key: Key) -> bool:
        """Whether it was there; after an ambiguous try that may be less than the truth."""
        return await self.delete_range(key, b"") > 0

    async def delete_range(self, start: Key, end: Key) -> int:
        """How many of [start, end) were there. Many keys want ranges of some 10,000: one call of 900,000 takes 6 s."""
        request = rpc_pb2.DeleteRangeRequest(key=key_bytes(start), range_end=key_bytes(end))

        async def attempt(endpoint: Endpoint, attempt_s: float, metadata: Metadata) -> rpc_pb2.DeleteRangeResponse:
            return await endpoint.kv.DeleteRange(request, timeout=attempt_s, metadata=metadata)

        return (await self._call(attempt, Repeat.HARMLESS)).deleted

    async def transaction(
        self,
        compare: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        repeat: Repeat = Repeat.NEVER,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> TransactionResult:
        """`Repeat.HARMLESS` is for guards that our own success would make fail: look at `repeated` then."""
        request = encode_transaction(compare, success, failure)

        async def attempt(endpoint: Endpoint, attempt_s: float, metadata: Metadata) -> rpc_pb2.TxnResponse:
            return await endpoint.kv.Txn(request, timeout=attempt_s, metadata=metadata)

        answer = await self._calls.call(attempt, repeat, timeout_s)
        return decode_transaction(answer.value, answer.repeated)

    def watch_range(self, start: Key, end: Key, start_revision: int = 0) -> AsyncGenerator[tuple[Event, ...], None]:
        """Batches of changes in [start, end) from `start_revision` on, 0 = from now; an empty `end` is the one key."""
        return Watch(self._calls, key_bytes(start), key_bytes(end), start_revision).batches()

    def watch_prefix(self, prefix: Key, start_revision: int = 0) -> AsyncGenerator[tuple[Event, ...], None]:
        start, end = prefix_range(prefix)
        return self.watch_range(start, end, start_revision)

    async def lease(self, ttl_s: int) -> Lease:
        return await grant_lease(self._calls, ttl_s)

    async def status(self) -> list[EndpointStatus]:
        """Of every endpoint, also of those that do not answer. Raises nothing."""
        return await self.maintenance.status()

    async def _call(self, attempt: Attempt[T], repeat: Repeat, timeout_s: float = CALL_TIMEOUT_S) -> T:
        return (await self._calls.call(attempt, repeat, timeout_s)).value
