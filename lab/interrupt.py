"""A lab must be taken down also when its command is told to end: SIGTERM and SIGHUP become cancellation, as ^C is."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

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
