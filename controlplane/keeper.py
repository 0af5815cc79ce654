"""Keeps the past in bounds: takes snapshots, archives, trims the log, deletes old snapshots, compacts etcd.

Every replica looks and archives; the leader does the rest, as `decide/retention.py` plans it. Easy to get wrong: two
may do it at once (a leader that does not know yet, `kilim log compact` at another replica); each step is harmless then.
Nothing is taken, trimmed or deleted while this replica is in doubt, nor on the word of its memory: first a snapshot is
proven from the log in etcd (`proof.py`) and read back, and the archive's files are read.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from statistics import median_low

import structlog

from kilim.controlplane.archive import Archive
from kilim.controlplane.decide.retention import (
    Kept,
    Plan,
    Taken,
    limits_of,
    plan_retention,
    spare_snapshots,
    why_untrimmed,
)
from kilim.controlplane.proof import Claim, NothingToProveBy
from kilim.controlplane.proven import NotFromLog, ProvenSnapshots
from kilim.controlplane.replica import Replica, event_time_ns
from kilim.controlplane.store import FULL, Store
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.errors import Compacted, KvError, NoSpace, OutcomeUnknown, SnapshotBroken, Trimmed, Unavailable
from kilim.kvstore.log import EventLog
from kilim.kvstore.reserve import RESERVE_BYTES, Reserve
from kilim.kvstore.snapshots import SnapshotManifest, SnapshotStore
from kilim.kvstore.start import FIRST_START
from kilim.model.snapshot import encode_parts, freeze

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

KEEP_EVERY_S = 5.0
RETRY_MOST_S = 60.0
# A revision is forgotten between one and two of these after it was the newest, so that slow readers find theirs.
COMPACT_EVERY_S = 30.0
# By age one snapshot's distance goes at a time, when the rule has held for as long: no jump of a clock costs more.
AGE_HOLDS_S = 300.0
RECENT_EVENTS = 100
# Status says of an unreachable etcd already; the others are over when one looks again.
PASSING = (Unavailable, OutcomeUnknown, Compacted, Trimmed)


class InDoubt(KvError):
    """Whether this replica has the right state; the doubt is in status by itself."""


class Keeper:
    """`start`, `manifests` and `error` are of the last look, for status. `doubts`: why the state may be wrong."""

    def __init__(
        self,
        replica: Replica,
        log: EventLog,
        snapshots: SnapshotStore,
        store: Store,
        cluster: str,
        archive_directory: Path | None = None,
        doubts: Callable[[], Sequence[str]] = tuple,
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
        self.proven = ProvenSnapshots(log, snapshots)
        self.error = ""
        self._doubts = doubts
        self._doubted = False
        self._oldest: tuple[int, int] = (0, 0)  # first event held, its time
        self._age_due_s: float | None = None
        self._revision, self._revision_at_s = 0, 0.0
        self._full_bytes = 0
        self._swept = False

    @property
    def manifests(self) -> list[SnapshotManifest]:
        return self.proven.manifests

    async def run(self, is_leader: Callable[[], bool], every_s: float = KEEP_EVERY_S) -> None:
        """For ever."""
        pause_s = every_s
        while True:
            try:
                async with self.turn:
                    await self._round(is_leader())
                self.note("")
                self._doubted = False
                pause_s = every_s
            except PASSING as error:
                _logger.debug("nothing is kept in this round", error=str(error))
            except InDoubt as error:
                if not self._doubted:
                    _logger.error("nothing is kept, trimmed or deleted", error=str(error))
                self._doubted = True
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
        if not self._replica.broken and (self._doubts() or self.proven.strange):
            await self.proven.prove()  # it may be a snapshot that is wrong
        self._must_be_sound()
        if not self._swept:
            await self._snapshots.sweep()
            self._swept = True
        await self.keep()
        await self._forget_revisions()

    async def look(self) -> None:
        """What is held now."""
        self.start = await self._log.start()
        await self.proven.look()
        if self._oldest[0] != self.start.first_seq or not self._oldest[1]:
            self._oldest = (self.start.first_seq, await self._time_of(self.start.first_seq))

    async def _time_of(self, seq: int) -> int:
        async with contextlib.aclosing(self._log.read(seq, seq)) as commits:
            commit = await anext(commits, None)
        return event_time_ns(commit.records[0]) if commit is not None else 0

    def _must_be_sound(self) -> None:
        doubts = [self._replica.broken] if self._replica.broken else self._doubts()
        if doubts:
            raise InDoubt(f"the state of this replica is in doubt: {doubts[0]}")

    async def keep(self, *, take: bool = False) -> None:
        """What the plan says is due; `take`: a good snapshot of now in any case. Raises KvError or OSError."""
        newest = self.manifests[-1] if self.manifests else None
        self._must_be_sound()
        if newest is not None and newest.seq == self._replica.seq:
            if take and not await self.proven.is_good(newest):
                await self._take(asked=True)
        elif take or self._plan().take:
            await self._take(asked=take)
        try:
            await self.trim()
        except SnapshotBroken as error:
            if not take:
                raise
            _logger.error("the log is not trimmed now: snapshot is broken and was deleted", error=str(error))

    async def trim(self) -> None:
        """As far as the snapshots that there are let it. Needs next to no space in etcd, and makes some."""
        self._must_be_sound()
        try:
            await self._archive()
        finally:  # what is archived already may go all the same
            plan = await self._plan_by_age()
            if plan.trim_to or plan.delete:
                await self.proven.prove()
                plan = plan if set(plan.delete) | {plan.trim_to - 1} <= self._seqs() else self._plan()
                self._must_be_sound()
            if plan.trim_to:
                await self._trim(plan.trim_to)
            await self.proven.delete(plan.delete)

    def _seqs(self) -> set[int]:
        return {-1, *(manifest.seq for manifest in self.manifests)}

    def spare(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Snapshots that can go in need, and in greater need."""
        return spare_snapshots(self._kept(), limits_of(self._replica.state), time.time_ns())

    def why_untrimmed(self) -> str:
        return why_untrimmed(self._kept(), limits_of(self._replica.state))

    def _plan(self, recent_ns: int | None = None) -> Plan:
        return plan_retention(self._kept(recent_ns), limits_of(self._replica.state), time.time_ns())

    async def _plan_by_age(self) -> Plan:
        """By count at once; by age as the newest events tell the time, and only when that has held for a while."""
        plan, now_s = self._plan(), time.monotonic()
        if self._plan(time.time_ns()).trim_to > plan.trim_to:
            aged = self._plan(await self._recent_ns())
            if aged.trim_to > plan.trim_to:
                if self._age_due_s is not None and now_s - self._age_due_s >= AGE_HOLDS_S:
                    self._age_due_s = now_s
                    return aged
                self._age_due_s = self._age_due_s or now_s
                return plan
        self._age_due_s = None
        return plan

    async def _recent_ns(self) -> int | None:
        """What most of the newest events say the time is, whatever a single clock says."""
        span = await self._log.span()
        times: list[int] = []
        first = max(span.first_seq, span.last_seq - RECENT_EVENTS + 1)
        async with contextlib.aclosing(self._log.read(first, span.last_seq)) as commits:
            async for commit in commits:
                times += map(event_time_ns, commit.records)
        return median_low(times) if times else None

    def _kept(self, recent_ns: int | None = None) -> Kept:
        taken = tuple(Taken(manifest.seq, manifest.time_ns) for manifest in self.manifests)
        archived = self.archive.seq if self.archive is not None else None
        return Kept(self.start.first_seq, self._replica.seq, self._oldest[1], taken, archived, recent_ns)

    async def _take(self, *, asked: bool) -> None:
        """Proven. Unproven only where nothing in etcd is left to prove it by, and somebody asks for it."""
        chain, time_ns, frozen = self._replica.chain, self._replica.time_ns, freeze(self._replica.state)
        began_s = time.monotonic()
        claim = Claim(frozen.seq, chain, frozen.state_digest)
        try:
            if wrong := await self.proven.prove(claim):
                raise NotFromLog(frozen.seq, wrong[claim])
        except NothingToProveBy as error:
            if not asked:
                raise
            await self.proven.check_chain(claim)
            _logger.warning("snapshot is taken on the word of this replica alone", seq=frozen.seq, reason=str(error))
        self._must_be_sound()
        try:
            parts = _in_thread(encode_parts(frozen))
            manifest = await self._snapshots.publish(frozen.seq, chain, frozen.state_digest, time_ns, parts)
        except KvError:
            self._swept = False
            raise
        await self.proven.check(manifest)
        took_s = round(time.monotonic() - began_s, 3)
        _logger.info("snapshot taken", seq=manifest.seq, bytes=manifest.bytes, records=manifest.records, took_s=took_s)
        await self.look()

    async def _trim(self, first_seq: int) -> None:
        base = next(manifest for manifest in self.manifests if manifest.seq == first_seq - 1)
        for manifest in (base, self.manifests[-1]):
            await self.proven.check(manifest)
        if self.archive is not None:
            await self.archive.verify(self.start.first_seq, base.seq, base.chain)
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
