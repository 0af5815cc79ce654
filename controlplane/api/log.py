"""The log as readers want it: events one by one, or commits as they are stored.

Easy to get wrong: what is in memory has been verified when it was folded; `stored` asks for what etcd holds now.
"""

from collections.abc import AsyncIterator

from kilim.controlplane.api.status import NOT_LOADED, Context, answering
from kilim.controlplane.replica import Replica
from kilim.kvstore.commit import Commit, chain_next
from kilim.kvstore.errors import Unavailable
from kilim.kvstore.log import EventLog
from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import controlplane_pb2_grpc as rpc

BATCH_BYTES = 1 << 20


class Log(rpc.LogServicer):
    def __init__(self, replica: Replica, log: EventLog) -> None:
        self._replica = replica
        self._log = log

    async def ReadLog(self, request: api.ReadLogRequest, context: Context) -> AsyncIterator[api.LogEntry]:
        """What is in memory from there, the rest from etcd; with `follow` it goes on as events come."""
        async with answering(context):
            self._check_loaded()
            last = request.to_seq or (0 if request.follow else self._replica.seq)
            cursor = max(request.from_seq, 1)
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
            async for commit in self._held_or_stored(request):
                batch.commits.append(commit.encoded)
                size += len(commit.encoded)
                if size >= BATCH_BYTES:
                    yield batch
                    batch, size = api.CommitBatch(), 0
            if batch.commits:
                yield batch

    async def _held_or_stored(self, request: api.ReadCommitsRequest) -> AsyncIterator[Commit]:
        cursor, last = max(request.from_seq, 1), request.to_seq or self._replica.seq
        if request.stored:
            async for commit in self._log.read(cursor, request.to_seq or None):
                yield commit
            return
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
