"""What takes long to decide, decided on a copy of the state in a thread, while the loop goes on.

Easy to get wrong: when the thread is done the state may be another one. What comes out of it is a forecast; it counts
as decided only where the state still is the one that was copied (`decide/foretold.py`).
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from kilim.controlplane.decide.view import View
from kilim.controlplane.replica import Replica

T = TypeVar("T")

MOST_STEPS = 250  # of a decision in the loop: some 30 ms


class Beside:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._one = asyncio.Semaphore(1)  # each needs the memory of a state

    async def run(self, work: Callable[[View], T]) -> T:
        """`work` is pure, and all that it is given is its own."""
        async with self._one:
            view = self._replica.view
            state = view.state.copy()
            lately = dict(view.allocated_at), view.moves_seq, view.policies_seq

            def on_copy() -> tuple[View, T]:
                copy = View(state, view.defaults)
                copy.allocated_at, copy.moves_seq, copy.policies_seq = lately
                return copy, work(copy)

            copy, result = await asyncio.to_thread(on_copy)
        if self._replica.view is view and view.state.seq == state.seq and copy.foretold.told is not None:
            view.foretold = copy.foretold
        return result
