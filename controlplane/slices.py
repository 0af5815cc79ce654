"""Long work in the event loop, a slice at a time: nobody in the process is to feel it.

Easy to get wrong: a slice delays all else in the process. Where the CPU is short our share of it is
SLICE_S / (SLICE_S + REST_S).
"""

import asyncio
import time
from collections.abc import Callable

SLICE_S = 0.005
REST_S = 0.010
LOAD_AT_ONCE = 256  # records of a snapshot, between two looks at the clock


class Slices:
    """One for each piece of work. `before_rest` is told that others have their turn now."""

    def __init__(self, before_rest: Callable[[], None] = lambda: None) -> None:
        self._before_rest = before_rest
        self._ends_s = 0.0

    async def rest_in_time(self) -> None:
        """At once, until the slice is over."""
        if time.monotonic() >= self._ends_s:
            self._before_rest()
            await asyncio.sleep(REST_S)
            self._ends_s = time.monotonic() + SLICE_S
