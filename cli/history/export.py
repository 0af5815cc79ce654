"""A log, or a part of it, copied into segment files; what is there already is kept, and gaps in it are filled.

Easy to get wrong: segments that do not begin with event 1 say nothing without a state to begin from, so that state is
written beside them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kilim.cli.failure import Failure
from kilim.cli.history.progress import counted
from kilim.cli.history.rebuild import Moment, event_of, loaded, moment_at
from kilim.cli.history.source import Base, HistorySource
from kilim.kvstore.errors import LogBroken, SnapshotBroken, Trimmed
from kilim.kvstore.landmarks import Landmark, Landmarks
from kilim.kvstore.segment_file import SegmentFile
from kilim.kvstore.segments import SegmentDirectory, remove_leftovers, segment_files, write_segments, write_snapshot
from kilim.kvstore.snapshot import describe_parts
from kilim.kvstore.span import Span
from kilim.model.snapshot import encode_parts, freeze


class Exported(NamedTuple):
    """`span`: of all that is in the directory now; the paths are of what was written this time."""

    span: Span
    segments: list[Path]
    snapshots: list[Path]


def export_history(source: HistorySource, directory: Path, first: int | None, last: int | None) -> Exported:
    """All of the directory is read again at the end. Raises LogBroken or SnapshotBroken where it is damaged."""
    span = source.span()
    first, last = first or span.first_seq, last or span.last_seq
    _check_wanted(span, first, last)
    directory.mkdir(parents=True, exist_ok=True)
    remove_leftovers(directory)
    held = segment_files([directory])
    if held:
        _check_joins(held, directory, first, last)
        _check_same_log(source, span, held)
    segments: list[Path] = []
    for low, high in _missing(held, first, last):
        segments += write_segments(directory, counted(source.commits(low, high), low - 1, high))
    snapshots = _write_base(source, directory)
    return Exported(_verified(directory), segments, snapshots)


def _check_wanted(span: Span, first: int, last: int) -> None:
    if span.last_seq < span.first_seq:
        raise Failure("there is nothing to export: the log holds no event")
    if first < span.first_seq:
        raise Failure(f"--from: the log begins at event {span.first_seq}, what was before it has been trimmed")
    if last > span.last_seq:
        raise Failure(f"--to: event {last} has not happened: the log ends at event {span.last_seq}")


def _check_joins(held: list[SegmentFile], directory: Path, first: int, last: int) -> None:
    """A gap is never made."""
    begin, end = held[0].first_seq, max(one.last_seq for one in held)
    if first > end + 1 or last < begin - 1:
        raise Failure(
            f"{directory} holds events {begin} to {end}: with {first} to {last} there would be a gap in it; "
            "export into another directory"
        )


def _check_same_log(source: HistorySource, span: Span, held: list[SegmentFile]) -> None:
    """By the newest event that both should have: its chain digest stands for everything before it."""
    for one in sorted(held, key=lambda one: one.last_seq, reverse=True):
        if span.first_seq - 1 <= one.last_seq <= span.last_seq:
            claim = Landmarks([Landmark(one.last_seq, one.chain_after, str(one.path))])
            seq = max(one.last_seq, span.first_seq)
            for commit in source.commits(seq, seq):
                claim.check(commit)
            return
    if held[0].first_seq > span.last_seq + 1:
        raise LogBroken(span.last_seq + 1, f"the log ends before it, but {held[-1].path} holds later events")


def _missing(held: list[SegmentFile], first: int, last: int) -> list[tuple[int, int]]:
    missing = []
    for one in held:
        if one.first_seq > first:
            missing.append((first, min(one.first_seq - 1, last)))
        first = max(first, one.last_seq + 1)
        if first > last:
            return missing
    return [*missing, (first, last)]


def _write_base(source: HistorySource, directory: Path) -> list[Path]:
    """What the segments go on from, unless they begin with event 1 or it is there."""
    segments = SegmentDirectory([directory])
    span = segments.span()
    before = span.first_seq - 1
    if before == 0 or any(before <= one.seq <= span.last_seq for one in segments.snapshots()):
        return []
    try:
        base = moment_at(source, before)
    except Trimmed:
        base = _oldest(source, before, span.last_seq)
    state, chain = base
    parts = list(encode_parts(freeze(state)))
    manifest = describe_parts(state.seq, chain, state.digest, _time_of(source, state.seq), parts)
    return [write_snapshot(directory, manifest, parts)]


def _oldest(source: HistorySource, from_seq: int, to_seq: int) -> Moment:
    """The first snapshot that is whole."""
    for base in reversed(list(bases(source, from_seq, to_seq))):
        if isinstance(base, Base):
            try:
                return loaded(base)
            except SnapshotBroken:
                continue
    raise Failure(
        f"the segments are written, but nothing can be replayed from them: they begin at event {from_seq + 1}, and "
        "there is no whole snapshot of the event before it, nor of a later one"
    )


def bases(source: HistorySource, from_seq: int, to_seq: int) -> Iterator[Base | SnapshotBroken]:
    """Every snapshot of these seqs, the newest first."""
    while to_seq >= from_seq:
        found: Base | SnapshotBroken | None
        try:
            found = source.base(to_seq)
        except SnapshotBroken as broken:
            found = broken
        if found is None or found.seq < from_seq:
            return
        yield found
        to_seq = found.seq - 1


def _time_of(source: HistorySource, seq: int) -> int:
    span = source.span()
    if seq not in span:
        base = source.base(seq)
        return base.time_ns if base is not None and base.seq == seq else 0
    (commit,) = source.commits(seq, seq)
    return event_of(commit.records[seq - commit.first_seq]).time_ns


def _verified(directory: Path) -> Span:
    """What is on disk, read again."""
    segments = SegmentDirectory([directory])
    span = segments.span()
    try:
        for _ in counted(segments.commits(span.first_seq), span.first_seq - 1, span.last_seq):
            pass
    except LogBroken as broken:
        raise LogBroken(broken.seq, f"{broken.reason}; delete that file and export again") from broken
    for manifest in segments.snapshots():
        for _ in segments.read_snapshot(manifest):
            pass
    for damaged in segments.broken_snapshots:
        raise damaged
    return span
