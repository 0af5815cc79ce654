"""Work that blocks, in a thread of the loop's own.

Easy to get wrong: a thread goes on when who waits for it is cancelled, and what it works with, file descriptors above
all, may be closed and be another thing then. So who is cancelled waits for it first.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    working = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        while not working.done():  # however often
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([working])
        raise
