"""An exported log: segment files, with snapshots beside them, in one or several directories that are read as one log.

Easy to get wrong: overlapping segments are fine where they agree. A gap, or two that say different things of the same
event, is a broken log; temporary files are nothing, somebody may be writing them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import structlog

from kilim.kvstore.commit import Commit
from kilim.kvstore.cursor import Cursor
from kilim.kvstore.errors import LogBroken, NoSegments, SnapshotBroken, Trimmed
from kilim.kvstore.landmarks import Landmark, Landmarks
from kilim.kvstore.sealed_file import remove_leftovers
from kilim.kvstore.segment_file import (
    SEGMENT_SUFFIX,
    SNAPSHOT_SUFFIX,
    SegmentFile,
    open_segment,
    open_snapshot,
    read_segment,
    read_snapshot,
    write_segment,
    write_snapshot,
)
from kilim.kvstore.snapshot import SnapshotManifest
from kilim.kvstore.span import Span

__all__ = ["SegmentDirectory", "remove_leftovers", "write_segment", "write_segments", "write_snapshot"]

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

SEGMENT_BYTES = 8 << 20


def write_segments(directory: Path, commits: Iterable[Commit], segment_bytes: int = SEGMENT_BYTES) -> Iterator[Path]:
    """Commits that follow one another, in files of about that size. Gives each file when it is whole and on disk."""
    held: list[Commit] = []
    size = 0
    for commit in commits:
        held.append(commit)
        size += len(commit.encoded)
        if size >= segment_bytes:
            yield write_segment(directory, held)
            held, size = [], 0
    if held:
        yield write_segment(directory, held)


def segment_files(paths: Sequence[Path]) -> list[SegmentFile]:
    """What is there, by first event, whether or not it makes a whole log. Raises LogBroken, NoSegments."""
    found = (open_segment(path) for path in _files(paths, SEGMENT_SUFFIX))
    return sorted(found, key=lambda one: (one.first_seq, -one.last_seq, one.path))


class SegmentDirectory:
    """As of the moment it was made; files that come later are not seen. Raises LogBroken where what the files say of
    themselves gives no whole log; what is in them is verified when it is read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self.segments = segment_files(paths)
        self._line = _line(self.segments)
        self._snapshots: dict[SnapshotManifest, Path] = {}
        self.broken_snapshots: list[SnapshotBroken] = []
        for path in _files(paths, SNAPSHOT_SUFFIX):
            try:
                self._snapshots.setdefault(open_snapshot(path), path)
            except SnapshotBroken as broken:
                log.error("a snapshot cannot be used", seq=broken.seq, reason=broken.reason)
                self.broken_snapshots.append(broken)

    def span(self) -> Span:
        """By what the files say of themselves. Where there are only snapshots, the empty span after the newest."""
        if self._line:
            first, last = self._line[0], self._line[-1]
            return Span(first.first_seq, first.chain_before, last.last_seq, last.chain_after)
        newest = max(self._snapshots, key=lambda one: one.seq, default=None)
        if newest is None:
            raise NoSegments(f"no segments in {', '.join(map(str, self.paths))}")
        return Span(newest.seq + 1, newest.chain, newest.seq, newest.chain)

    def commits(self, from_seq: int, to_seq: int | None = None) -> Iterator[Commit]:
        """From the commit that holds `from_seq` to the one that holds `to_seq` (default: the last one), dense and with
        a whole chain. Raises Trimmed where they begin after `from_seq`, LogBroken, which names the file."""
        span = self.span()
        if from_seq < span.first_seq:
            raise Trimmed(span.first_seq)
        last = span.last_seq if to_seq is None else min(to_seq, span.last_seq)
        cursor = Cursor(from_seq, None)
        landmarks = Landmarks(self.landmarks())
        while cursor.next_seq <= last:
            segment = self._holding(cursor.next_seq)
            for commit in read_segment(segment):
                if commit.last_seq < cursor.next_seq:
                    continue
                try:
                    cursor.advance(commit)
                    landmarks.check(commit)
                except LogBroken as broken:
                    raise LogBroken(broken.seq, f"{segment.path}: {broken.reason}") from broken
                yield commit
                if cursor.next_seq > last:
                    break

    def _holding(self, seq: int) -> SegmentFile:
        return self._line[bisect_left(self._line, seq, key=lambda one: one.last_seq)]

    def file_with(self, seq: int) -> Path:
        """One that holds an event of the span."""
        return self._holding(seq).path

    def landmarks(self) -> Iterator[Landmark]:
        """What every segment claims of where it begins and ends, also those that no reading needs."""
        for one in self.segments:
            yield Landmark(one.first_seq - 1, one.chain_before, str(one.path))
            yield Landmark(one.last_seq, one.chain_after, str(one.path))

    def snapshots(self) -> list[SnapshotManifest]:
        """By seq. One that cannot be read is left out, and said to be in the log."""
        return sorted(self._snapshots, key=lambda one: one.seq)

    def snapshot_path(self, manifest: SnapshotManifest) -> Path:
        return self._snapshots[manifest]

    def read_snapshot(self, manifest: SnapshotManifest) -> Iterator[list[bytes]]:
        """Its records, a part at a time. Raises SnapshotBroken."""
        return read_snapshot(self._snapshots[manifest], manifest)


def _files(paths: Sequence[Path], suffix: str) -> list[Path]:
    """Without hidden ones: those are temporary."""
    found = []
    for directory in paths:
        if not directory.is_dir():
            raise NoSegments(f"{directory} is not a directory")
        found += [path for path in sorted(directory.glob(f"*{suffix}")) if not path.name.startswith(".")]
    return found


def _line(segments: Sequence[SegmentFile]) -> list[SegmentFile]:
    """Enough of them to hold everything, in order. Raises LogBroken at a gap and where two contradict each other."""
    line: list[SegmentFile] = []
    claims: dict[int, Landmark] = {}
    for one in segments:
        if line and one.first_seq > line[-1].last_seq + 1:
            raise LogBroken(line[-1].last_seq + 1, f"a gap: {line[-1].path} ends before it, {one.path} begins after it")
        for seq, chain in ((one.first_seq - 1, one.chain_before), (one.last_seq, one.chain_after)):
            other = claims.setdefault(seq, Landmark(seq, chain, str(one.path)))
            if other.chain != chain:
                raise LogBroken(
                    max(seq, 1), f"{one.path} gives it chain {chain.hex()}, {other.claimed_by} {other.chain.hex()}"
                )
        if not line or one.last_seq > line[-1].last_seq:
            line.append(one)
    return line
