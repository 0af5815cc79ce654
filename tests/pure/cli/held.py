"""A history in memory, as the sources of `cli/history` give theirs."""

from collections.abc import Iterator, Sequence

from kilim.cli.history.source import Base
from kilim.kvstore.commit import CHAIN_START, Commit, encode_commit
from kilim.kvstore.span import Span
from kilim.model.fold import fold_record
from kilim.model.snapshot import encode_parts, freeze
from kilim.model.state import State
from kilim.v1 import events_pb2 as pb


def event(time_ms: int = 0, actor: str = "cli:ann@desk", **body: object) -> bytes:
    """`event(5, namespace_removed={"name": "x"})`, or with a message as the body."""
    return pb.Event(time_ns=time_ms * 10**6, actor=actor, cause="test", **body).SerializeToString()  # type: ignore[arg-type]


def commits_of(records: Sequence[bytes], size: int = 3) -> list[Commit]:
    commits, seq, chain = [], 1, CHAIN_START
    for start in range(0, len(records), size):
        commits.append(encode_commit(seq, chain, records[start : start + size]))
        seq, chain = commits[-1].last_seq + 1, commits[-1].chain_after
    return commits


class HeldHistory:
    def __init__(self, commits: Sequence[Commit], bases: Sequence[Base] = ()) -> None:
        self.held = list(commits)
        self.bases = list(bases)
        self.asked: list[tuple[int, int | None]] = []

    def span(self) -> Span:
        first, last = self.held[0], self.held[-1]
        return Span(first.first_seq, first.chain_before, last.last_seq, last.chain_after)

    def commits(self, from_seq: int, to_seq: int | None = None) -> Iterator[Commit]:
        self.asked.append((from_seq, to_seq))
        for commit in self.held:
            if commit.last_seq >= from_seq and (to_seq is None or commit.first_seq <= to_seq):
                yield commit

    def base(self, at_seq: int) -> Base | None:
        return next((base for base in sorted(self.bases, key=lambda b: -b.seq) if base.seq <= at_seq), None)

    def snapshot_seqs(self) -> list[int]:
        return [base.seq for base in self.bases]

    def snapshot(self, seq: int) -> Base | None:
        return next((base for base in self.bases if base.seq == seq), None)


def base_at(commits: Sequence[Commit], last_seq: int) -> Base:
    """The snapshot of the end of the commit that ends there."""
    state, chain = State(), CHAIN_START
    for commit in commits:
        if commit.first_seq > last_seq:
            break
        chain = commit.chain_after
        for seq, record in enumerate(commit.records, commit.first_seq):
            fold_record(state, seq, record)
    assert state.seq == last_seq
    frozen = freeze(state)
    return Base(last_seq, chain, frozen.state_digest, (r for part in encode_parts(frozen, 64) for r in part))
