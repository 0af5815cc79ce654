"""How long to wait before the next try."""

import random


class Backoff:
    """Exponential with jitter, so that a hundred agents do not come back at one moment."""

    def __init__(self, first_s: float = 0.05, longest_s: float = 2.0) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._tries = 0

    def reset(self) -> None:
        self._tries = 0

    def next_s(self) -> float:
        ceiling = min(self._longest_s, self._first_s * 2.0 ** min(self._tries, 16))
        self._tries += 1
        return ceiling * random.uniform(0.5, 1.0)
