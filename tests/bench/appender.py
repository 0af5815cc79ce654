"""One appender to the log, as a replica is one: it follows the log, and where others append too it takes turns."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

from kilim.controlplane.turns import Turns
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import Commit
from kilim.kvstore.errors import Conflict
from kilim.kvstore.head import LogHead, head_after
from kilim.kvstore.log import EventLog


class Appender:
    def __init__(self, etcd: EtcdClient, cluster: str, head: LogHead, records: Sequence[bytes]) -> None:
        self._log = EventLog(etcd, cluster)
        self._head = head
        self._records = records
        self._turns = Turns()
        self._seen = asyncio.Event()

    async def follow(self) -> None:
        """For ever."""
        async for commit in self._log.follow(self._head.next_seq, self._head.chain):
            self._take(commit)

    async def append(self) -> int:
        """How many events it has appended: none where another one was faster."""
        while wait_s := self._turns.wait_s(self._log.writer, time.monotonic()):
            await self._wait_commit(wait_s)
        begun_s = time.monotonic()
        try:
            commit, _ = await self._log.append(self._head, self._records)
        except Conflict as conflict:
            while self._head.last_seq < conflict.head.last_seq:
                await self._wait_commit(None)
            return 0
        self._turns.note_append(time.monotonic() - begun_s)
        self._take(commit)
        return len(self._records)

    def _take(self, commit: Commit) -> None:
        if commit.last_seq <= self._head.last_seq:
            return
        self._head = head_after(commit)
        self._turns.note_commit(self._head.writer, time.monotonic())
        self._seen.set()
        self._seen = asyncio.Event()

    async def _wait_commit(self, for_s: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                await self._seen.wait()


@contextlib.asynccontextmanager
async def appenders(
    etcd: EtcdClient, cluster: str, count: int, records: Sequence[bytes]
) -> AsyncIterator[list[Appender]]:
    head = await EventLog(etcd, cluster).head()
    running = [Appender(etcd, cluster, head, records) for _ in range(count)]
    following = [asyncio.create_task(each.follow(), name="follow") for each in running]
    try:
        yield running
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
