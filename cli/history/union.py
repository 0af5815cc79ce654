"""Segments for the events that a server or an etcd no longer holds, and that one for the rest, as one history.

Easy to get wrong: what both hold is read from the live one; the chain is followed over the seam, so that segments of
another cluster are found out.
"""

from collections.abc import Iterator

from kilim.cli.failure import Failure
from kilim.cli.history.source import Base, HistorySource
from kilim.kvstore.commit import Commit
from kilim.kvstore.cursor import Cursor
from kilim.kvstore.span import Span


class UnionHistory:
    def __init__(self, segments: HistorySource, live: HistorySource) -> None:
        self._segments = segments
        self._live = live

    def span(self) -> Span:
        old, live = self._segments.span(), self._live.span()
        if old.first_seq >= live.first_seq:
            return live
        if old.last_seq + 1 < live.first_seq:
            raise Failure(
                f"--segments: they end at event {old.last_seq} and what is live begins at event {live.first_seq}: "
                "what is between is in neither"
            )
        return Span(old.first_seq, old.chain_before, live.last_seq, live.chain)

    def commits(self, from_seq: int, to_seq: int | None = None) -> Iterator[Commit]:
        cursor = Cursor(from_seq, None)
        for commit in self._unchecked(from_seq, self.span().last_seq if to_seq is None else to_seq):
            cursor.advance(commit)
            yield commit

    def _unchecked(self, from_seq: int, to_seq: int) -> Iterator[Commit]:
        live_from = self._live.span().first_seq
        if from_seq < live_from:
            yield from self._segments.commits(from_seq, min(to_seq, live_from - 1))
        if to_seq >= live_from:
            yield from self._live.commits(max(from_seq, live_from), to_seq)

    def snapshot_seqs(self) -> list[int]:
        return sorted({*self._segments.snapshot_seqs(), *self._live.snapshot_seqs()})

    def snapshot(self, seq: int) -> Base | None:
        return self._live.snapshot(seq) or self._segments.snapshot(seq)

    def base(self, at_seq: int) -> Base | None:
        live, old = self._live.base(at_seq), self._segments.base(at_seq)
        if live is None or (old is not None and old.seq > live.seq):
            return old
        return live
