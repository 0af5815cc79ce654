"""Keeps the past in bounds: takes snapshots, archives, trims the log, deletes old snapshots, compacts etcd.

Every replica looks and archives; the leader does the rest, as `decide/retention.py` plans it. Easy to get wrong: two
may do it at once (a leader that does not know yet, `kilim log compact` at another replica); each step is harmless then.
Nothing is trimmed before the snapshots that it rests on were read back from etcd and gave the digest that they claim.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import structlog

from kilim.controlplane.archive import Archive
from kilim.controlplane.decide.retention import Kept, Plan, Taken, limits_of, plan_retention, spare_snapshots
from kilim.controlplane.replica import Replica, event_time_ns
from kilim.controlplane.store import FULL, Store
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.errors import Compacted, KvError, NoSpace, OutcomeUnknown, SnapshotBroken, Trimmed, Unavailable
from kilim.kvstore.log import EventLog
from kilim.kvstore.reserve import RESERVE_BYTES, Reserve
from kilim.kvstore.snapshots import SnapshotManifest, SnapshotStore
from kilim.kvstore.start import FIRST_START
from kilim.model.digest import digest_of
from kilim.model.snapshot import encode_parts, freeze, hash_records

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

KEEP_EVERY_S = 5.0
RETRY_MOST_S = 60.0
# A revision is forgotten between one and two of these after it was the newest, so that slow readers find theirs.
COMPACT_EVERY_S = 30.0
# Status says of an unreachable etcd already; the others are over when one looks again.
PASSING = (Unavailable, OutcomeUnknown, Compacted, Trimmed)


class Keeper:
    """`start`, `manifests` and `error` are of the last look, for status."""

    def __init__(
        self,
        replica: Replica,
        log: EventLog,
        snapshots: SnapshotStore,
        store: Store,
        cluster: str,
        archive_directory: Path | None = None,
    ) -> None:
        self._replica = replica
        self._log = log
        self._snapshots = snapshots
        self._store = store
        self.client: EtcdClient = store.client
        self.reserve = Reserve(store.client, cluster)
        self.archive = Archive(archive_directory, log, snapshots) if archive_directory is not None else None
        self.turn = asyncio.Lock()  # the rounds here, and what is asked for by a call
        self.start = FIRST_START
        self.manifests: list[SnapshotManifest] = []
        self.error = ""
        self._oldest: tuple[int, int] = (0, 0)  # first event held, its time
        self._read_back: set[SnapshotManifest] = set()
        self._revision, self._revision_at_s = 0, 0.0
        self._full_bytes = 0
        self._swept = False

    async def run(self, is_leader: Callable[[], bool], every_s: float = KEEP_EVERY_S) -> None:
        """For ever."""
        pause_s = every_s
        while True:
            try:
                async with self.turn:
                    await self._round(is_leader())
                self.note("")
                pause_s = every_s
            except PASSING as error:
                _logger.debug("nothing is kept in this round", error=str(error))
            except NoSpace:
                self.note(FULL)
            except (KvError, OSError) as error:
                self.note(str(error))
                pause_s = min(pause_s * 2, RETRY_MOST_S)
            except Exception as error:  # of ours; the replica serves on
                _logger.exception("keeping failed by an error of ours")
                self.note(f"{type(error).__name__}: {error}")
                pause_s = RETRY_MOST_S
            await asyncio.sleep(pause_s)

    def note(self, error: str) -> None:
        """Said once; empty where all went well."""
        if error and error != self.error:
            _logger.error("snapshots and trimming do not go on", error=error)
        elif self.error and not error:
            _logger.info("snapshots and trimming go on")
        self.error = error

    async def _round(self, leads: bool) -> None:
        await self.look()
        if not self._replica.loaded:
            return
        await self.keep_reserve()
        if not leads:
            self._swept = False
            await self._archive()
            return
        if not self._swept:
            await self._snapshots.sweep()
            self._swept = True
        await self.keep()
        await self._forget_revisions()

    async def look(self) -> None:
        """What is held now."""
        self.start = await self._log.start()
        examined = await self._snapshots.examine()
        self.manifests = [one for one in examined if isinstance(one, SnapshotManifest)]
        for one in examined:
            if isinstance(one, SnapshotBroken):
                _logger.error("snapshot is deleted: nobody can use it", seq=one.seq, reason=one.reason)
                await self._snapshots.delete(one.seq)
        if self._oldest[0] != self.start.first_seq or not self._oldest[1]:
            self._oldest = (self.start.first_seq, await self._time_of(self.start.first_seq))

    async def _time_of(self, seq: int) -> int:
        async with contextlib.aclosing(self._log.read(seq, seq)) as commits:
            commit = await anext(commits, None)
        return event_time_ns(commit.records[0]) if commit is not None else 0

    async def keep(self, *, take: bool = False) -> None:
        """What the plan says is due; `take`: a good snapshot of now in any case. Raises KvError or OSError."""
        newest = self.manifests[-1] if self.manifests else None
        if newest is not None and newest.seq == self._replica.seq:
            if take and not await self._is_good(newest):
                await self._take()
        elif take or self._plan().take:
            await self._take()
        await self.trim()

    async def _is_good(self, manifest: SnapshotManifest) -> bool:
        """Read once more; it goes where it is not."""
        self._read_back.discard(manifest)
        try:
            await self._check(manifest)
        except SnapshotBroken as error:
            _logger.error("snapshot is broken and was deleted", seq=error.seq, reason=error.reason)
            return False
        return True

    async def trim(self) -> None:
        """As far as the snapshots that there are let it. Needs next to no space in etcd, and makes some."""
        try:
            await self._archive()
        finally:  # what is archived already may go all the same
            plan = self._plan()
            if plan.trim_to:
                await self._trim(plan.trim_to)
            for seq in plan.delete:
                await self._snapshots.delete(seq)
            self.manifests = [manifest for manifest in self.manifests if manifest.seq not in plan.delete]

    def spare(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Snapshots that can go in need, and in greater need."""
        return spare_snapshots(self._kept(), limits_of(self._replica.state), time.time_ns())

    def _plan(self) -> Plan:
        return plan_retention(self._kept(), limits_of(self._replica.state), time.time_ns())

    def _kept(self) -> Kept:
        taken = tuple(Taken(manifest.seq, manifest.time_ns) for manifest in self.manifests)
        archived = self.archive.seq if self.archive is not None else None
        return Kept(self.start.first_seq, self._replica.seq, self._oldest[1], taken, archived)

    async def _take(self) -> None:
        chain, time_ns, frozen = self._replica.chain, self._replica.time_ns, freeze(self._replica.state)
        began_s = time.monotonic()
        try:
            parts = _in_thread(encode_parts(frozen))
            manifest = await self._snapshots.publish(frozen.seq, chain, frozen.state_digest, time_ns, parts)
        except KvError:
            self._swept = False
            raise
        await self._check(manifest)
        took_s = round(time.monotonic() - began_s, 3)
        _logger.info("snapshot taken", seq=manifest.seq, bytes=manifest.bytes, records=manifest.records, took_s=took_s)
        await self.look()

    async def _check(self, manifest: SnapshotManifest) -> None:
        """Once each: as it is in etcd it gives the state that it claims; else it goes."""
        if manifest in self._read_back:
            return
        try:
            async with contextlib.aclosing(self._snapshots.read(manifest)) as parts:
                digest = await digest_parts(parts)
            if digest != manifest.state_digest:
                raise SnapshotBroken(manifest.seq, f"read back it has digest {digest.hex()}")
        except SnapshotBroken:
            await self._snapshots.delete(manifest.seq)
            raise
        self._read_back = {one for one in self._read_back if one in self.manifests} | {manifest}

    async def _trim(self, first_seq: int) -> None:
        base = next(manifest for manifest in self.manifests if manifest.seq == first_seq - 1)
        for manifest in (base, self.manifests[-1]):
            await self._check(manifest)
        self.start = await self._log.trim(first_seq)
        _logger.info("log trimmed", first_seq=self.start.first_seq, snapshot_seq=base.seq)

    async def _archive(self) -> None:
        if self.archive is not None:
            await self.archive.open()
            if to_seq := self._plan().archive_to:
                await self.archive.extend(to_seq)

    async def keep_reserve(self) -> None:
        """Not while etcd is as full as it was when it refused: the room is for others then."""
        size = max((status.db_bytes for status in self._store.statuses), default=0)
        if self._store.full:
            self._full_bytes = size
        elif self._replica.seq and (not self._full_bytes or size + 2 * RESERVE_BYTES < self._full_bytes):
            await self.reserve.fill()

    async def _forget_revisions(self) -> None:
        now_s = time.monotonic()
        if now_s - self._revision_at_s < COMPACT_EVERY_S:
            return
        if self._revision:
            await self.client.maintenance.compact(self._revision)
        self._revision, self._revision_at_s = await self.revision(), now_s

    async def revision(self) -> int:
        """etcd's present one."""
        return (await self.client.get_range(b"\0", b"", keys_only=True)).revision


async def _in_thread(parts: Iterator[list[bytes]]) -> AsyncIterator[list[bytes]]:
    """Each part is encoded while the loop is free."""
    while (part := await asyncio.to_thread(next, parts, None)) is not None:
        yield part


async def digest_parts(parts: AsyncIterator[list[bytes]]) -> bytes:
    """The state digest of a snapshot's records."""
    total = 0
    async for records in parts:
        total += await asyncio.to_thread(hash_records, records)
    return digest_of(total)
