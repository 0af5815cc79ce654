"""Chain digests that somebody claims for certain events, held against a walk over the log. PURE.

Easy to get wrong: the chain digest of an event stands for all of history up to it, so two that agree on one event
agree on everything before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kilim.kvstore.commit import Commit, chain_over
from kilim.kvstore.errors import LogBroken


@dataclass(frozen=True, slots=True, order=True)
class Landmark:
    seq: int
    chain: bytes
    claimed_by: str


class Landmarks:
    """For commits in order; landmarks that the walk does not come by are not looked at."""

    def __init__(self, claims: Iterable[Landmark]) -> None:
        self._claims = sorted(claims)
        self._next = 0

    def check(self, commit: Commit) -> None:
        """Raises LogBroken where a claim about an event of this commit, or of the one before it, is wrong."""
        while self._next < len(self._claims) and self._claims[self._next].seq <= commit.last_seq:
            claim = self._claims[self._next]
            self._next += 1
            if claim.seq < commit.first_seq - 1:
                continue
            chain = chain_over(commit.chain_before, commit.records[: claim.seq + 1 - commit.first_seq])
            if chain != claim.chain:
                raise LogBroken(
                    max(claim.seq, 1), f"has chain {chain.hex()}, but {claim.claimed_by} says {claim.chain.hex()}"
                )
