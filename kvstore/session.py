"""Presence of this process in etcd, under a lease: who is there and where to reach them. No fact hangs on it (I5).

Easy to get wrong: a session outlives its leases. When one is lost `run()` takes another and announces again; who keeps
something under a lease of his own reckoning (an election) compares lease ids.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import structlog

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.errors import Compacted, KvError, LeaseLost, Unavailable
from kilim.kvstore.keys import Keys
from kilim.kvstore.keyvalue import prefix_range
from kilim.kvstore.lease import Lease, lease_clock

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

# etcd's own election can take a second or two, and no lease of less than that outlives it.
TTL_S = 10
_PAUSE_S = 0.5


class Session:
    """`run()` belongs in the caller's TaskGroup: it grants the lease, keeps it alive, grants anew when lost."""

    def __init__(self, client: EtcdClient, cluster: str = "default", *, ttl_s: int = TTL_S) -> None:
        self.client = client
        self.keys = Keys(cluster)
        self._ttl_s = ttl_s
        self._lease: Lease | None = None
        self._announced: dict[str, bytes] = {}
        self._changed = asyncio.Event()
        self._granted = asyncio.Event()
        self._closed = False

    @property
    def is_live(self) -> bool:
        """Whether etcd surely still holds what we keep there, by our own clock."""
        return self._lease is not None and self._lease.is_live

    @property
    def lease_id(self) -> int:
        """0 where there is no live lease."""
        return self._lease.id if self._lease is not None and self._lease.is_live else 0

    async def wait_live(self, timeout_s: float) -> bool:
        """Until there is a live lease, or not that long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self.is_live:
                    await self._granted.wait()
        return self.is_live

    async def run(self) -> None:
        """Ends only by cancellation, or after `close()`."""
        said = ""
        while not self._closed:
            try:
                self._lease = await self.client.lease(self._ttl_s)
                self._granted.set()
                self._granted.clear()
                said = ""
                await self._keep_alive(self._lease)
            except LeaseLost as error:
                log.warning("session lost its lease", reason=str(error))
            except KvError as error:
                # Also where etcd is full: presence is no reason to stop a replica that serves.
                if str(error) != said:
                    log.warning("session cannot hold a lease", reason=str(error))
                said = str(error)
                await asyncio.sleep(_PAUSE_S)

    async def _keep_alive(self, lease: Lease) -> None:
        """Refreshes at every third of the lease, announces at its start and at every change."""
        announced: dict[str, bytes] = {}
        refresh_at = lease_clock() + lease.ttl_s / 3
        while not self._closed:
            try:
                self._changed.clear()
                await self._announce_all(lease, announced)
                async with asyncio.timeout(max(refresh_at - lease_clock(), 0)):
                    await self._changed.wait()
            except TimeoutError:
                refresh_at = await self._refresh(lease)

    async def _announce_all(self, lease: Lease, announced: dict[str, bytes]) -> None:
        for name, value in list(self._announced.items()):
            if announced.get(name) != value:
                await self.client.put(self.keys.member(name), value, lease=lease.id)
                announced[name] = value

    async def _refresh(self, lease: Lease) -> float:
        """When to refresh next. Tries until the lease is over, however long etcd is away."""
        while True:
            left_s = lease.good_until - lease_clock()
            if left_s <= 0:
                raise LeaseLost(f"etcd did not answer for {lease.ttl_s} s")
            try:
                await lease.refresh(left_s)
            except Unavailable as error:
                log.warning("session cannot refresh its lease", left_s=round(left_s, 1), reason=str(error))
                await asyncio.sleep(min(_PAUSE_S, left_s))
            else:
                return lease.good_until - lease.ttl_s * 2 / 3

    def announce(self, name: str, value: bytes) -> None:
        """Keeps `member/<name>` = value (the advertised address) under whatever lease we hold."""
        self.keys.member(name)
        self._announced[name] = value
        self._changed.set()

    async def members(self) -> dict[str, bytes]:
        """name → value of those that are there now; a dead one stays for up to its lease."""
        found = await self.client.get_prefix(self.keys.members)
        return {self.keys.member_name(kv.key): kv.value for kv in found.kvs}

    async def watch_members(self) -> AsyncGenerator[dict[str, bytes], None]:
        """The present members, and again after every change. Waits out an etcd that is away."""
        start, end = prefix_range(self.keys.members)
        while True:
            try:
                found = await self.client.get_range(start, end)
                members = {self.keys.member_name(kv.key): kv.value for kv in found.kvs}
                yield dict(members)
                async with contextlib.aclosing(self.client.watch_range(start, end, found.revision + 1)) as batches:
                    async for batch in batches:
                        for event in batch:
                            name = self.keys.member_name(event.kv.key)
                            if event.is_delete:
                                members.pop(name, None)
                            else:
                                members[name] = event.kv.value
                        yield dict(members)
            except (Compacted, Unavailable):
                await asyncio.sleep(_PAUSE_S)

    async def close(self) -> None:
        """Revokes the lease: presence and leadership go at once, or after the lease where etcd is away."""
        self._closed = True
        self._changed.set()
        if self._lease is not None:
            with contextlib.suppress(KvError):
                await self._lease.revoke()
