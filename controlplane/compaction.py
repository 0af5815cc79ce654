"""`kilim log compact`: what the keeper does now and then, at once; with defragmentation, and out of a full etcd.

Out of a full one, in this order, because under the alarm only deleting and compacting work:
1. The reserve goes; etcd is compacted, defragmented, disarmed: there is room to write where the log begins.
2. The log is trimmed as far as retention and the snapshots that there are let it, and 1. is done again.
3. A snapshot is taken. Where there is no space for these, old snapshots go first, then all but the base.
4. Trimmed, compacted, defragmented and disarmed again: what the new snapshot lets go is free now.
Easy to get wrong: no lock holds two of these apart, a full etcd could not hold one; every step may happen twice.
"""

from dataclasses import dataclass, field

import structlog

from kilim.controlplane.keeper import Keeper
from kilim.controlplane.store import FULL, Store
from kilim.kvstore.errors import KvError, NoSpace
from kilim.kvstore.maintenance import EndpointStatus
from kilim.kvstore.snapshots import SnapshotStore

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class Member:
    """Of etcd. `error`: why it was not defragmented, or does not answer."""

    endpoint: str
    before_bytes: int = 0
    after_bytes: int = 0
    error: str = ""


@dataclass(slots=True)
class Compacted:
    snapshot_seq: int = 0
    first_seq: int = 0
    revision: int = 0
    disarmed: bool = False
    members: list[Member] = field(default_factory=list)
    untrimmed: str = ""  # why no event went


class Compaction:
    def __init__(self, keeper: Keeper, snapshots: SnapshotStore, store: Store) -> None:
        self._keeper = keeper
        self._snapshots = snapshots
        self._store = store
        self._maintenance = store.client.maintenance

    async def run(self, *, defragment: bool) -> Compacted:
        """Raises KvError or OSError; NoSpace where etcd is full and no defragmentation is asked for, or not enough."""
        async with self._keeper.turn:
            members = {one.endpoint: Member(one.endpoint, one.db_bytes, error=one.error) for one in await self._look()}
            full = await self._is_full()
            if full and not defragment:
                raise NoSpace(FULL)
            await self._keeper.look()
            first_seq = self._keeper.start.first_seq
            await self._keeper.keep_reserve()
            if full:
                await self._make_room(members)
            else:
                await self._keeper.keep(take=True)
            revision = await self._compact()
            if defragment:
                await self._defragment(members)
            for one in await self._look():
                members[one.endpoint].after_bytes = one.db_bytes
            self._keeper.note("")
            newest = self._keeper.manifests[-1].seq if self._keeper.manifests else 0
            done = Compacted(newest, self._keeper.start.first_seq, revision, full, list(members.values()))
            if done.first_seq == first_seq:
                done.untrimmed = self._keeper.why_untrimmed()
            _logger.info("log compacted", snapshot_seq=newest, first_seq=done.first_seq, revision=revision, full=full)
            return done

    async def _make_room(self, members: dict[str, Member]) -> None:
        await self._keeper.reserve.release()
        for spare in ((), *self._keeper.spare()):
            for seq in spare:
                await self._snapshots.delete(seq)
            await self._compact()
            await self._defragment(members)
            try:
                await self._keeper.look()
                await self._keeper.trim()
                await self._compact()
                await self._defragment(members)
                await self._keeper.keep(take=True)
                return
            except NoSpace as error:
                _logger.warning("etcd has still no space for a snapshot", error=str(error))
        raise NoSpace(FULL)

    async def _compact(self) -> int:
        revision = await self._keeper.revision()
        await self._maintenance.compact(revision, physical=True)
        return revision

    async def _defragment(self, members: dict[str, Member]) -> None:
        """One after the other, the leader last; then the alarm is turned off."""
        await self._maintenance.wait_compacted()
        for status in sorted(await self._look(), key=lambda one: one.is_leader):
            member = members[status.endpoint]
            member.error = status.error
            if status.error:
                continue
            try:
                await self._maintenance.defragment(status.endpoint)
            except KvError as error:
                member.error = str(error)
        await self._maintenance.disarm_nospace()

    async def _is_full(self) -> bool:
        return any(alarm == "NOSPACE" for _, alarm in await self._maintenance.alarms())

    async def _look(self) -> list[EndpointStatus]:
        """Remembered for `status`, too."""
        await self._store.look()
        return self._store.statuses
