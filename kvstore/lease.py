"""A lease in etcd: what hangs on it goes when it is not refreshed in time.

Easy to get wrong: etcd cannot tell us that a lease is gone while etcd is not there. Only our own clock can: a lease
must be taken for lost `ttl_s` after the moment that the last answered refresh was *sent*.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

import grpc

from kilim.etcd import rpc_pb2
from kilim.kvstore.calls import Calls, Metadata, Repeat
from kilim.kvstore.endpoints import Endpoint
from kilim.kvstore.errors import LeaseLost, Rejected


def lease_clock() -> float:
    """Unlike time.monotonic() it goes on while the machine is suspended, as etcd's clock does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The lease is ours until `lease_clock()` says `good_until`."""

    ttl_s: int
    good_until: float


class Lease:
    """Granted by `EtcdClient.lease`. Refreshes nothing by itself."""

    def __init__(self, calls: Calls, lease_id: int, granted: Refreshed) -> None:
        self._calls = calls
        self.id = lease_id
        self.ttl_s = granted.ttl_s
        self.good_until = granted.good_until

    @property
    def is_live(self) -> bool:
        return lease_clock() < self.good_until

    async def refresh(self, timeout_s: float) -> None:
        """Raises LeaseLost when etcd says so or our clock does, Unavailable while there is still hope."""

        async def attempt(endpoint: Endpoint, attempt_s: float, metadata: Metadata) -> Refreshed:
            return await _refresh(endpoint, self.id, attempt_s, metadata)

        answer = await self._calls.call(attempt, Repeat.READ, timeout_s)
        if answer.value.ttl_s <= 0:
            self.good_until = 0.0
            raise LeaseLost("etcd knows the lease no more")
        if not self.is_live:
            raise LeaseLost(f"not refreshed within its {self.ttl_s} s")
        self.good_until = answer.value.good_until

    async def revoke(self, timeout_s: float = 3.0) -> None:
        """Everything that hangs on it goes at once. A lease that is gone already is revoked."""
        self.good_until = 0.0

        async def attempt(endpoint: Endpoint, attempt_s: float, metadata: Metadata) -> rpc_pb2.LeaseRevokeResponse:
            request = rpc_pb2.LeaseRevokeRequest(ID=self.id)
            return await endpoint.lease.LeaseRevoke(request, timeout=attempt_s, metadata=metadata)

        try:
            await self._calls.call(attempt, Repeat.HARMLESS, timeout_s)
        except LeaseLost:
            return


async def grant_lease(calls: Calls, ttl_s: int) -> Lease:
    """We choose the id, so that a repeated grant is recognised. `good_until` counts from before the first try."""
    started = lease_clock()
    lease_id = secrets.randbits(62) + 1

    async def attempt(endpoint: Endpoint, attempt_s: float, metadata: Metadata) -> int:
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl_s, ID=lease_id)
        try:
            answer = await endpoint.lease.LeaseGrant(request, timeout=attempt_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if "lease already exists" not in (error.details() or ""):
                raise
            return ttl_s
        return answer.TTL

    granted = await calls.call(attempt, Repeat.HARMLESS)
    return Lease(calls, lease_id, Refreshed(granted.value, started + granted.value))


async def _refresh(endpoint: Endpoint, lease_id: int, attempt_s: float, metadata: Metadata) -> Refreshed:
    """A stream for one refresh: nothing to watch over between two, and each may go to another endpoint."""
    sent_at = lease_clock()
    requests = iter([rpc_pb2.LeaseKeepAliveRequest(ID=lease_id)])
    stream = endpoint.lease.LeaseKeepAlive(requests, timeout=attempt_s, metadata=metadata)
    try:
        answer = await stream.read()
    finally:
        stream.cancel()
    if not isinstance(answer, rpc_pb2.LeaseKeepAliveResponse):
        raise Rejected("etcd closed the refresh of a lease without an answer")
    return Refreshed(answer.TTL, sent_at + answer.TTL)
