"""Whether a log is whole: the chain over every event, files and etcd against each other, snapshots against the events.

Easy to get wrong: a snapshot that is whole in itself proves nothing. Folding the events must give the same state.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc

from kilim.cli.client import Refused
from kilim.cli.history.comparison import Comparison
from kilim.cli.history.progress import counted
from kilim.cli.history.rebuild import loaded
from kilim.cli.history.segments import SegmentHistory
from kilim.cli.history.source import HistorySource
from kilim.kvstore.commit import Commit
from kilim.kvstore.cursor import Cursor
from kilim.kvstore.errors import LogBroken, SnapshotBroken
from kilim.kvstore.landmarks import Landmark, Landmarks
from kilim.kvstore.segment_file import read_segment
from kilim.kvstore.segments import SegmentDirectory
from kilim.kvstore.span import Span
from kilim.model.fold import fold_record
from kilim.model.state import State


@dataclass(slots=True)
class Findings:
    """What is wrong, with the first event that it concerns; and what was looked at."""

    problems: list[tuple[int, str]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    snapshots: int = 0
    segments: int = 0

    def add(self, error: LogBroken | SnapshotBroken, where: str) -> None:
        """Once, though it may be met on two ways."""
        if not any(text.endswith(str(error)) for _, text in self.problems):
            text = str(error) if where in str(error) else f"{where}: {error}"
            self.problems.append((error.seq, text))


def verify_log(live: HistorySource | None, name: str, segments: SegmentHistory | None) -> Findings:
    """`name`: what to call the live one."""
    findings = Findings()
    if segments is not None:
        _verify_files(segments.directory, findings)
        _verify_source(segments, "segments", findings, None)
    if live is not None:
        comparison = Comparison(segments.directory, live.span(), name) if segments is not None else None
        if comparison is not None:
            for gap in comparison.gaps():
                findings.add(gap, name)
        _verify_source(live, name, findings, comparison)
    findings.problems.sort(key=lambda problem: problem[0])
    return findings


def _verify_files(directory: SegmentDirectory, findings: Findings) -> None:
    """Every one, also those that no reading needs."""
    for broken in directory.broken_snapshots:
        findings.add(broken, "segments")
    for one in directory.segments:
        findings.segments += 1
        try:
            cursor = Cursor(one.first_seq, one.chain_before)
            for commit in read_segment(one):
                cursor.advance(commit)
        except LogBroken as broken:
            findings.add(broken, str(one.path))


def _verify_source(source: HistorySource, name: str, findings: Findings, comparison: Comparison | None) -> None:
    span = source.span()
    findings.spans.append(span)
    snapshots = _Snapshots(source, name, span, findings)
    cursor = Cursor(span.first_seq, span.chain_before)
    try:
        for commit in counted(source.commits(span.first_seq, span.last_seq), span.first_seq - 1, span.last_seq):
            cursor.advance(commit)
            _compare(comparison, commit, name, findings)
            snapshots.check(commit)
        if cursor.next_seq <= span.last_seq:
            raise LogBroken(cursor.next_seq, f"missing, though the log is said to end at {span.last_seq}")
        cursor.check_end(span.last_seq + 1, span.chain)
    except LogBroken as broken:
        findings.add(broken, name)
    except Refused as refused:
        if refused.code is not grpc.StatusCode.DATA_LOSS:
            raise
        findings.add(LogBroken(cursor.next_seq, refused.message), name)


def _compare(comparison: Comparison | None, commit: Commit, name: str, findings: Findings) -> None:
    if comparison is not None:
        try:
            comparison.check(commit)
        except LogBroken as broken:
            findings.add(broken, name)


class _Snapshots:
    """Each one whole in itself, of the same chain as the events, and the state that the events give."""

    def __init__(self, source: HistorySource, name: str, span: Span, findings: Findings) -> None:
        self._name = name
        self._findings = findings
        self._state: State | None = State() if span.first_seq == 1 else None
        self._claims: dict[int, Landmark] = {}
        self._digests: dict[int, bytes] = {}
        for seq in source.snapshot_seqs():
            findings.snapshots += 1
            try:
                self._take(source, seq, span)
            except SnapshotBroken as broken:
                findings.add(broken, name)
        self._last = max(self._digests, default=0)  # nothing is folded beyond it

    def _take(self, source: HistorySource, seq: int, span: Span) -> None:
        base = source.snapshot(seq)
        if base is None:
            self._findings.snapshots -= 1  # it was let go meanwhile
            return
        state = loaded(base).state
        if span.first_seq - 1 <= seq <= span.last_seq:
            self._claims[seq] = Landmark(seq, base.chain, f"snapshot {seq}")
            self._digests[seq] = base.state_digest
            if self._state is None:
                self._state = state

    def check(self, commit: Commit) -> None:
        for seq in [seq for seq in self._claims if seq <= commit.last_seq]:
            try:
                Landmarks([self._claims.pop(seq)]).check(commit)
            except LogBroken as broken:
                self._findings.add(SnapshotBroken(seq, f"event {broken.seq} {broken.reason}"), self._name)
        if self._state is None or commit.first_seq > self._last:
            return
        for seq, record in enumerate(commit.records, commit.first_seq):
            if seq <= self._state.seq:
                continue
            fold_record(self._state, seq, record)
            expected = self._digests.get(seq)
            if expected is not None and expected != self._state.digest:
                reason = f"its state digest is {expected.hex()}, the events give {self._state.digest.hex()}"
                self._findings.add(SnapshotBroken(seq, reason), self._name)


def joined(spans: list[Span]) -> Span:
    """From the first event that any has to the last."""
    first, last = min(spans, key=lambda one: one.first_seq), max(spans, key=lambda one: one.last_seq)
    return Span(first.first_seq, first.chain_before, last.last_seq, last.chain)


def problem_lines(findings: Findings) -> Iterator[str]:
    for _, text in findings.problems:
        yield " ".join(text.split())
