"""The log as readers want it: events one by one, or commits as they are stored.

Easy to get wrong: what is in memory has been verified when it was folded; `stored` asks for what etcd holds now.
"""

from collections.abc import AsyncIterator, Callable

import grpc
import structlog

from kilim.controlplane.api.limits import TEXT_LENGTH, check_length
from kilim.controlplane.api.status import NOT_LOADED, Context, answering
from kilim.controlplane.compaction import Compaction
from kilim.controlplane.replica import Replica
from kilim.controlplane.snapshots import Snapshots
from kilim.kvstore.commit import Commit, chain_next
from kilim.kvstore.errors import KvError, LogBroken, SnapshotBroken, Unavailable
from kilim.kvstore.log import EventLog
from kilim.kvstore.snapshots import SnapshotManifest, SnapshotStore
from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import controlplane_pb2_grpc as rpc

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

BATCH_BYTES = 1 << 20


class Log(rpc.LogServicer):
    """`present` are snapshots of the state in memory, `stored` those in etcd, which `why_away` says is away where it
    is not empty: what memory can answer is answered then, and the rest is refused at once."""

    def __init__(
        self,
        replica: Replica,
        log: EventLog,
        present: Snapshots,
        stored: SnapshotStore,
        compaction: Compaction,
        why_away: Callable[[], str] = str,
    ) -> None:
        self._replica = replica
        self._log = log
        self._present = present
        self._stored = stored
        self._compaction = compaction
        self._why_away = why_away

    async def ReadLog(self, request: api.ReadLogRequest, context: Context) -> AsyncIterator[api.LogEntry]:
        """What is in memory from there, the rest from etcd; with `follow` it goes on as events come."""
        async with answering(context):
            self._check_loaded()
            last = request.to_seq or (0 if request.follow else self._replica.seq)
            cursor = request.from_seq or await self._first_seq()
            while not last or cursor <= last:
                if cursor > self._replica.seq:
                    if not request.follow:
                        return
                    await self._replica.history.wait(cursor - 1)
                    continue
                async for commit in self._commits(cursor):
                    for entry in _entries(commit):
                        if entry.seq >= cursor and (not last or entry.seq <= last):
                            yield entry
                    cursor = commit.last_seq + 1
                    if last and cursor > last:
                        return

    async def ReadCommits(self, request: api.ReadCommitsRequest, context: Context) -> AsyncIterator[api.CommitBatch]:
        """In messages of about a mebibyte."""
        async with answering(context):
            self._check_loaded()
            batch, size = api.CommitBatch(), 0
            async for commit in self._held_or_stored(request, context):
                batch.commits.append(commit.encoded)
                size += len(commit.encoded)
                if size >= BATCH_BYTES:
                    yield batch
                    batch, size = api.CommitBatch(), 0
            if batch.commits:
                yield batch

    async def _held_or_stored(self, request: api.ReadCommitsRequest, context: Context) -> AsyncIterator[Commit]:
        if request.stored and (away := self._why_away()):
            raise Unavailable(away)
        if request.stored:
            cursor = request.from_seq or (await self._log.start()).first_seq
            try:
                async for commit in self._log.read(cursor, request.to_seq or None):
                    yield commit
            except LogBroken as error:
                await context.abort(grpc.StatusCode.DATA_LOSS, str(error))
            return
        cursor, last = request.from_seq or await self._first_seq(), request.to_seq or self._replica.seq
        while cursor <= min(last, self._replica.seq):
            async for commit in self._commits(cursor):
                yield commit
                cursor = commit.last_seq + 1
                if cursor > last:
                    return

    async def _commits(self, cursor: int) -> AsyncIterator[Commit]:
        """At least the one that `cursor` is in."""
        commit = self._replica.history.commit_with(cursor)
        if commit is not None:
            yield commit
            return
        async for commit in self._log.read(cursor, self._replica.history.first_seq - 1):
            yield commit

    async def ReadSnapshot(self, request: api.ReadSnapshotRequest, context: Context) -> AsyncIterator[api.SnapshotPart]:
        """One that is broken is never given: the one before it is, unless exactly that one was asked for."""
        async with answering(context):
            self._check_loaded()
            away = self._why_away()
            memory_is_all = self._replica.history.first_seq == 1
            if away and not memory_is_all and (request.exact or request.at_seq < self._replica.seq):
                raise Unavailable(away)
            if request.at_seq == 0 or (away and not memory_is_all):
                async for message in self._present.take().parts():
                    yield api.SubscribeResponse.FromString(message).snapshot
                return
            if away:
                parts = []
            elif request.exact:
                parts = await self._stored_of(request.at_seq, context)
            else:
                parts = await self._newest_stored(request.at_seq)
        if not parts:
            which = "of" if request.exact else "at or before"
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no snapshot {which} event {request.at_seq}")
        for part in parts:
            yield part

    async def _newest_stored(self, at_seq: int) -> list[api.SnapshotPart]:
        for manifest in reversed(await self._stored.manifests()):
            if manifest.seq <= at_seq:
                try:
                    return await self._parts(manifest)
                except SnapshotBroken as error:
                    _logger.error("snapshot cannot be used, trying the one before", seq=error.seq, reason=error.reason)
        return []

    async def _stored_of(self, seq: int, context: Context) -> list[api.SnapshotPart]:
        try:
            manifest = await self._stored.manifest(seq)
            return await self._parts(manifest) if manifest is not None else []
        except SnapshotBroken as error:
            await context.abort(grpc.StatusCode.DATA_LOSS, error.reason)

    async def _parts(self, manifest: SnapshotManifest) -> list[api.SnapshotPart]:
        """Read to its end before any of it is passed on."""
        head = api.SnapshotPart(
            seq=manifest.seq, chain=manifest.chain, state_digest=manifest.state_digest, time_ns=manifest.time_ns
        )
        parts = []
        async for records in self._stored.read(manifest):
            parts.append(api.SnapshotPart(records=records))
            parts[-1].MergeFrom(head)
        parts = parts or [head]
        parts[-1].last = True
        return parts

    async def Compact(self, request: api.CompactRequest, context: Context) -> api.CompactResponse:
        async with answering(context):
            self._check_loaded()
            check_length("actor", request.actor, TEXT_LENGTH)
            _logger.info("compaction asked for", actor=request.actor, defragment=request.defragment)
            try:
                done = await self._compaction.run(defragment=request.defragment)
            except OSError as error:
                raise KvError(f"archive: {error}") from error
            members = [
                api.EtcdMember(
                    endpoint=one.endpoint,
                    before_bytes=one.before_bytes,
                    after_bytes=one.after_bytes,
                    error=one.error,
                )
                for one in done.members
            ]
            return api.CompactResponse(
                snapshot_seq=done.snapshot_seq,
                first_seq=done.first_seq,
                revision=done.revision,
                members=members,
                disarmed=done.disarmed,
                untrimmed=done.untrimmed,
            )

    async def _first_seq(self) -> int:
        """What `from_seq` 0 stands for: the first event that is held."""
        return 1 if self._replica.history.first_seq == 1 else (await self._log.start()).first_seq

    def _check_loaded(self) -> None:
        if not self._replica.loaded:
            raise Unavailable(NOT_LOADED)


def _entries(commit: Commit) -> list[api.LogEntry]:
    entries = []
    chain = commit.chain_before
    for number, record in enumerate(commit.records):
        chain = chain_next(chain, record)
        entries.append(api.LogEntry(seq=commit.first_seq + number, chain=chain, event=record))
    return entries
