"""How far a reader is, and the one place where a commit is held against what came before it (I3). PURE.

Easy to get wrong: a reader may start in the middle of a commit; the commit it gets starts before where it stands.
"""

from __future__ import annotations

from kilim.kvstore.commit import CHAIN_BYTES, CHAIN_START, Commit, chain_over, verify_commit
from kilim.kvstore.errors import LogBroken


class Cursor:
    """Stands before event `next_seq`. `chain` is that of the event before it, None where the reader does not know."""

    def __init__(self, next_seq: int, chain: bytes | None) -> None:
        if next_seq < 1 or (chain is not None and len(chain) != CHAIN_BYTES):
            raise ValueError("a reader stands at seq 1 or later, after a chain digest of 32 bytes")
        if next_seq == 1 and chain is not None and chain != CHAIN_START:
            raise ValueError("before seq 1 the chain is 32 zero bytes")
        self.next_seq = next_seq
        self.chain = CHAIN_START if next_seq == 1 else chain
        self._at_boundary = next_seq == 1

    def advance(self, commit: Commit) -> None:
        """Past the commit. Raises LogBroken, and stays, where it does not follow."""
        if self._at_boundary and self.chain is not None:
            verify_commit(commit, self.next_seq, self.chain)
        else:
            self._enter(commit)
        self.next_seq = commit.last_seq + 1
        self.chain = commit.chain_after
        self._at_boundary = True

    def _enter(self, commit: Commit) -> None:
        """The first commit: it contains `next_seq`, whole in itself, and its inner chain passes through ours."""
        if not commit.first_seq <= self.next_seq <= commit.last_seq:
            raise LogBroken(self.next_seq, f"found seq {commit.first_seq} to {commit.last_seq} in its place")
        expected = CHAIN_START if commit.first_seq == 1 else commit.chain_before
        verify_commit(commit, commit.first_seq, expected)
        if self.chain is None:
            return
        passed = chain_over(commit.chain_before, commit.records[: self.next_seq - commit.first_seq])
        if passed != self.chain:
            raise LogBroken(
                self.next_seq, f"follows chain {passed.hex()} in the store, {self.chain.hex()} is what we hold"
            )

    def check_start(self, first_seq: int, chain_before: bytes) -> None:
        """Where we stand at the place where a trimmed log begins, our chain is the one it says; if we hold none, we
        take it."""
        if self.next_seq != first_seq:
            return
        if self.chain is None:
            self.chain, self._at_boundary = chain_before, True
        elif self.chain != chain_before:
            raise LogBroken(
                first_seq, f"the log starts after chain {chain_before.hex()}, {self.chain.hex()} is what we hold"
            )

    def check_end(self, next_seq: int, chain: bytes) -> None:
        """Against a head that was read after everything before us: it is not behind, and at our place has our chain."""
        if next_seq < self.next_seq:
            raise LogBroken(
                next_seq, f"the log ends before it, but we hold events up to {self.next_seq - 1}: etcd lost data"
            )
        if next_seq == self.next_seq and self.chain is not None and self.chain != chain:
            raise LogBroken(
                next_seq, f"the head's chain is {chain.hex()}, that of the events before it {self.chain.hex()}"
            )
