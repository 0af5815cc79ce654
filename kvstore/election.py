"""Which replica does the jobs that need one doer. Nothing is correct because of it (I5).

Easy to get wrong: leadership is lost by the clock, without a word from etcd. Ask `is_leader` before every piece of
work, and do not keep the answer.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from kilim.kvstore import transaction
from kilim.kvstore.errors import Compacted, KvError, LeaseLost, Unavailable
from kilim.kvstore.keyvalue import KeyValue
from kilim.kvstore.session import Session

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_POLL_S = 5.0
_PAUSE_S = 0.5


class Election:
    """`run()` belongs in the caller's TaskGroup, beside the session's: it campaigns for ever."""

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self._client = session.client
        self._key = session.keys.leader
        self._name = name
        self._leader_name: str | None = None
        self._led_by_lease = 0

    @property
    def is_leader(self) -> bool:
        """By the lease that the leader key hangs on, which we hold and which is not over."""
        lease_id = self._session.lease_id
        return lease_id != 0 and lease_id == self._led_by_lease

    @property
    def leader_name(self) -> str | None:
        """As last heard; None before that and while there is none."""
        return self._leader_name

    async def run(self) -> None:
        """Ends only by cancellation."""
        while True:
            try:
                await self._session.wait_live(_POLL_S)
                revision = await self._campaign()
                await self._wait_change(revision)
            except (KvError, TimeoutError) as error:
                # Whatever it was, the key is read again; that we lead is a matter of our lease, not of this.
                if not isinstance(error, (Unavailable, Compacted, LeaseLost, TimeoutError)):
                    log.warning("campaign failed", reason=str(error))
                if not isinstance(error, TimeoutError):
                    await asyncio.sleep(_PAUSE_S)

    async def _campaign(self) -> int:
        """Takes the key where it is free, or ours from an earlier life; returns the revision of what was seen."""
        found = await self._client.get_range(self._key, b"")
        holder = found.kvs[0] if found.kvs else None
        lease_id = self._session.lease_id
        if lease_id != 0 and self._may_take(holder, lease_id):
            guard = holder.mod_revision if holder is not None else 0
            result = await self._client.transaction(
                compare=[transaction.mod_revision_is(self._key, guard)],
                success=[transaction.put(self._key, self._name.encode(), lease=lease_id)],
            )
            found = await self._client.get_range(self._key, b"")
            holder = found.kvs[0] if found.kvs else None
            if result.succeeded:
                log.info("elected", name=self._name)
        self._hear(holder)
        return found.revision

    def _may_take(self, holder: KeyValue | None, lease_id: int) -> bool:
        """A key of our name under another lease is that of our last life, or of a lease that we lost."""
        return holder is None or (holder.value == self._name.encode() and holder.lease != lease_id)

    def _hear(self, holder: KeyValue | None) -> None:
        name = holder.value.decode(errors="replace") if holder is not None else None
        if name != self._leader_name:
            log.info("leader changed", leader=name, was=self._leader_name)
        self._leader_name = name
        self._led_by_lease = holder.lease if holder is not None and name == self._name else 0

    async def _wait_change(self, revision: int) -> None:
        """Until the key changes, or a while has passed: a watch is a hint, and a new lease of ours shows nowhere."""
        async with contextlib.aclosing(self._client.watch_range(self._key, b"", revision + 1)) as batches:
            async with asyncio.timeout(_POLL_S):
                await anext(batches)
