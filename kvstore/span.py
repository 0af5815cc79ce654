"""How far a log reaches, wherever it is held. PURE.

Easy to get wrong: a span may hold no event; then `last_seq` is `first_seq - 1` and both digests are the same.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Events first_seq … last_seq; `chain_before` is the chain digest of first_seq - 1, `chain` that of last_seq."""

    first_seq: int
    chain_before: bytes
    last_seq: int
    chain: bytes

    def __contains__(self, seq: int) -> bool:
        return self.first_seq <= seq <= self.last_seq
