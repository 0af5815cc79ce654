"""What files say of events that a live log holds too: the same commits, byte for byte.

Easy to get wrong: files that are damaged are reported where files are verified; here they only end the comparison.
"""

from collections.abc import Iterator

from kilim.kvstore.commit import Commit
from kilim.kvstore.errors import LogBroken
from kilim.kvstore.segments import SegmentDirectory
from kilim.kvstore.span import Span


class Comparison:
    def __init__(self, directory: SegmentDirectory, live: Span, name: str) -> None:
        self._directory = directory
        self._live = live
        self._name = name
        self._filed = directory.span()
        begin = max(live.first_seq, self._filed.first_seq)
        overlap = begin <= min(live.last_seq, self._filed.last_seq)
        self._commits: Iterator[Commit] = directory.commits(begin, live.last_seq) if overlap else iter(())
        self._next = self._advance()

    def gaps(self) -> Iterator[LogBroken]:
        """Where the two do not join."""
        filed, live = self._filed, self._live
        if filed.last_seq > live.last_seq:
            yield LogBroken(
                live.last_seq + 1, f"the segments hold events up to {filed.last_seq}, {self._name} ends before them"
            )
        if filed.last_seq + 1 < live.first_seq:
            yield LogBroken(
                filed.last_seq + 1,
                f"the segments end before it, {self._name} begins at {live.first_seq}: what is between is in neither",
            )
        if filed.last_seq + 1 == live.first_seq and filed.chain != live.chain_before:
            yield LogBroken(
                live.first_seq,
                f"{self._name} begins after chain {live.chain_before.hex()}, the segments end with {filed.chain.hex()}",
            )

    def check(self, commit: Commit) -> None:
        """Live commits in order. Raises LogBroken, once, where the files say something else."""
        while self._next is not None and self._next.last_seq < commit.first_seq:
            self._next = self._advance()
        filed = self._next
        if filed is None or filed.first_seq > commit.last_seq or filed.encoded == commit.encoded:
            return
        self._next, self._commits = None, iter(())
        raise LogBroken(*self._difference(filed, commit))

    def _difference(self, filed: Commit, live: Commit) -> tuple[int, str]:
        path = self._directory.file_with(filed.first_seq)
        if filed.first_seq != live.first_seq:
            return live.first_seq, (
                f"{self._name} has events {live.first_seq} to {live.last_seq} in one commit, "
                f"{path} has {filed.first_seq} to {filed.last_seq}"
            )
        for seq, (ours, theirs) in enumerate(zip(live.records, filed.records, strict=False), live.first_seq):
            if ours != theirs:
                return seq, f"{self._name} and {path} hold different events"
        if len(live.records) != len(filed.records):
            seq = min(live.last_seq, filed.last_seq) + 1
            return seq, f"the commit of {live.first_seq} ends at {live.last_seq}, in {path} at {filed.last_seq}"
        return live.first_seq, f"{self._name} and {path} hold the same events in different bytes"

    def _advance(self) -> Commit | None:
        try:
            return next(self._commits, None)
        except LogBroken:
            return None
