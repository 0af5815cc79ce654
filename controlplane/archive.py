"""The log on this machine's disk, before it is trimmed: segments up to the newest snapshot, continued where they end.

Every replica that is given a directory writes its own, so that none has a gap when another one becomes the leader.
Easy to get wrong: a gap is never written. A directory that ends before the log begins is said to be so, and the leader
then trims nothing until somebody has filled the gap or has given another directory.
"""

import asyncio
import contextlib
from pathlib import Path

import structlog

from kilim.kvstore.commit import CHAIN_START, Commit
from kilim.kvstore.errors import KvError, LogBroken, NoSegments, Trimmed
from kilim.kvstore.log import EventLog
from kilim.kvstore.segments import (
    SEGMENT_BYTES,
    SegmentDirectory,
    remove_leftovers,
    write_segment,
    write_snapshot,
)
from kilim.kvstore.snapshots import SnapshotStore

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Archive:
    """`seq` is the last event that is in it; 0: none, or not looked at yet."""

    def __init__(self, directory: Path, log: EventLog, snapshots: SnapshotStore) -> None:
        self._directory = directory
        self._log = log
        self._snapshots = snapshots
        self._opened = False
        self._chain = CHAIN_START
        self.seq = 0

    async def open(self) -> None:
        """What is there, looked at once, and again after a failure."""
        if self._opened:
            return
        span = await asyncio.to_thread(self._find)
        self.seq, self._chain = span
        if self.seq == 0:
            await self._begin()
        self._opened = True
        _logger.info("archive opened", directory=str(self._directory), seq=self.seq)

    async def extend(self, to_seq: int) -> None:
        """The commits after `seq` up to that of `to_seq`. Raises KvError or OSError; what was written stays."""
        held: list[Commit] = []
        size = 0
        try:
            async with contextlib.aclosing(self._log.read(self.seq + 1, to_seq)) as commits:
                async for commit in commits:
                    if not held and commit.chain_before != self._chain:
                        raise LogBroken(
                            commit.first_seq,
                            f"archive {self._directory} has another chain before it: is it of this log?",
                        )
                    held.append(commit)
                    size += len(commit.encoded)
                    if size >= SEGMENT_BYTES:
                        await self._write(held)
                        held, size = [], 0
            if held:
                await self._write(held)
        except Trimmed as error:
            self._opened = False
            raise KvError(
                f"archive {self._directory} ends at event {self.seq}, the log begins at {error.first_seq}: copy "
                "what is missing from another replica's archive, or give a new directory"
            ) from error
        except (KvError, OSError):
            self._opened = False
            raise

    def _find(self) -> tuple[int, bytes]:
        self._directory.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self._directory)
        try:
            span = SegmentDirectory([self._directory]).span()
        except NoSegments:
            return 0, CHAIN_START
        return span.last_seq, span.chain

    async def _begin(self) -> None:
        """An archive of a log that was trimmed before begins with the snapshot that the log begins with."""
        start = await self._log.start()
        if start.first_seq == 1:
            return
        manifest = await self._snapshots.manifest(start.first_seq - 1)
        if manifest is None:
            raise KvError(f"archive {self._directory} cannot begin: no snapshot at event {start.first_seq - 1}")
        parts = [part async for part in self._snapshots.read(manifest)]
        await asyncio.to_thread(write_snapshot, self._directory, manifest, parts)
        self.seq, self._chain = manifest.seq, manifest.chain

    async def _write(self, commits: list[Commit]) -> None:
        path = await asyncio.to_thread(write_segment, self._directory, commits)
        self.seq, self._chain = commits[-1].last_seq, commits[-1].chain_after
        _logger.info("segment archived", path=str(path), seq=self.seq)
