"""A lab must be taken down also when its command is told to end: SIGTERM and SIGHUP become cancellation, as ^C is.

A thread cannot be cancelled: what builds something in one is waited for, else it would go on building after `down`.
"""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def cancelled_by_sigterm() -> Iterator[None]:
    """Within, the current task is cancelled by these signals. Only in the main thread; elsewhere it does nothing."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    try:
        for number in _SIGNALS:
            loop.add_signal_handler(number, task.cancel)
    except (RuntimeError, ValueError):
        yield
        return
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


async def build_in_thread(work: Callable[[], T]) -> T:
    """As `asyncio.to_thread`, but a cancellation is raised only when the work has ended."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
