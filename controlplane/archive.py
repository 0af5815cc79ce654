"""The log on this machine's disk, before it is trimmed: segments up to the newest snapshot, continued where they end.

Every replica that is given a directory writes its own, so that none has a gap when another one becomes the leader.
Easy to get wrong: a gap is never written. A directory that ends before the log begins is said to be so, and the leader
then trims nothing until somebody has filled the gap or has given another directory.
"""

import asyncio
import contextlib
from collections import deque
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
        self._last: Path | None = None  # the file it ends with
        self.seq = 0

    async def open(self) -> None:
        """What is there, looked at once, and again after a failure; what it ends with must still be there."""
        if self._opened:
            if self._last is not None and not await asyncio.to_thread(self._last.is_file):
                raise self._lost(f"{self._last} is gone")
            return
        self.seq, self._last = 0, None  # nothing is trimmed that rests on what has not been looked at
        seq, chain = await asyncio.to_thread(self._find)
        if seq == 0:
            seq, chain = await self._begin()
        else:
            await self._check_end(seq, chain)
        self.seq, self._chain = seq, chain
        self._opened = True
        _logger.info("archive opened", directory=str(self._directory), seq=self.seq)

    async def extend(self, to_seq: int) -> None:
        """The commits after `seq` up to that of `to_seq`. Raises KvError or OSError; what was written stays."""
        if self._last is not None:
            await self.verify(self.seq, self.seq, self._chain)
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

    async def verify(self, from_seq: int, to_seq: int, chain: bytes) -> None:
        """That these events are on disk now, every one, with that chain at the end. Raises KvError or OSError."""
        try:
            reason = await asyncio.to_thread(self._why_not, from_seq, to_seq, chain)
        except (LogBroken, NoSegments, Trimmed) as error:
            raise self._lost(str(error)) from error
        except OSError:
            self._opened, self.seq = False, 0
            raise
        if reason:
            raise self._lost(reason)

    def _why_not(self, from_seq: int, to_seq: int, chain: bytes) -> str:
        (last,) = deque(SegmentDirectory([self._directory]).commits(from_seq, to_seq), maxlen=1) or (None,)
        if last is None or last.last_seq != to_seq:
            return f"event {to_seq} is not in it"
        return "" if last.chain_after == chain else f"the chain of event {to_seq} is another one in it"

    def _lost(self, reason: str) -> KvError:
        self._opened, self.seq, self._last = False, 0, None
        return KvError(f"archive {self._directory} is not what it was, nothing goes that it does not hold: {reason}")

    def _find(self) -> tuple[int, bytes]:
        self._directory.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self._directory)
        try:
            found = SegmentDirectory([self._directory])
            span = found.span()
        except NoSegments:
            return 0, CHAIN_START
        if span.last_seq >= span.first_seq:
            self._last = found.file_with(span.last_seq)
        return span.last_seq, span.chain

    async def _begin(self) -> tuple[int, bytes]:
        """An archive of a log that was trimmed before begins with the snapshot that the log begins with."""
        start = await self._log.start()
        if start.first_seq > 1:
            manifest = await self._snapshots.manifest(start.first_seq - 1)
            if manifest is None:
                raise KvError(f"archive {self._directory} cannot begin: no snapshot at event {start.first_seq - 1}")
            parts = [part async for part in self._snapshots.read(manifest)]
            await asyncio.to_thread(write_snapshot, self._directory, manifest, parts)
        return start.first_seq - 1, start.chain_before

    async def _check_end(self, seq: int, chain: bytes) -> None:
        """What it ends with is of this log; a gap after it is seen when it is extended."""
        held = await self._log.span()
        if seq > held.last_seq:
            raise KvError(
                f"archive {self._directory} ends at event {seq}, the log already at {held.last_seq}: it is of another "
                "log, or this one was restored from less; give a new directory"
            )
        expected = held.chain if seq == held.last_seq else held.chain_before
        if held.first_seq - 1 < seq < held.last_seq:
            async with contextlib.aclosing(self._log.read(seq + 1, seq + 1)) as commits:
                expected = (await anext(commits)).chain_before
        if seq >= held.first_seq - 1 and chain != expected:
            raise self._of_another_log(seq)

    def _of_another_log(self, seq: int) -> LogBroken:
        return LogBroken(
            seq,
            f"the chain of archive {self._directory} is another one there: it is of another log; give a new directory",
        )

    async def _write(self, commits: list[Commit]) -> None:
        path = await asyncio.to_thread(write_segment, self._directory, commits)
        self.seq, self._chain, self._last = commits[-1].last_seq, commits[-1].chain_after, path
        _logger.info("segment archived", path=str(path), seq=self.seq)
