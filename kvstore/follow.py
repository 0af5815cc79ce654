"""Following the log for ever: read to the head, then watch; whatever looks odd is read again from the store (I3).

Easy to get wrong: trusting the watch. It is a hint that comes with the bytes: a commit from it is passed on only where
it follows exactly, a head read every few seconds tells when it has fallen silent, and only the store can be broken.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable

import structlog

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import Commit, decode_commit
from kilim.kvstore.cursor import Cursor
from kilim.kvstore.errors import Compacted, LogBroken, Unavailable
from kilim.kvstore.keys import Keys
from kilim.kvstore.keyvalue import Event, prefix_range
from kilim.kvstore.read import read_bounds, read_commits

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

# How long a silent watch is believed.
_POLL_S = 2.0
_POLL_PATIENCE_S = 4.0
# How long a watch may be behind a head that was read, before it is given up.
_LAG_S = 0.5
_PAUSE_FIRST_S = 0.1
_PAUSE_MOST_S = 2.0
# A store that is wrong this many times in a row, by as many readings, is broken.
_READINGS = 2


async def follow_commits(
    client: EtcdClient, keys: Keys, cursor: Cursor, at_head: Callable[[], None]
) -> AsyncGenerator[Commit, None]:
    """Each round reads to the head and then watches; a round ends where the watch cannot be believed any longer.
    `at_head` is called whenever the store has shown that the cursor is at its head."""
    broken = 0
    pause_s = _PAUSE_FIRST_S
    lost_at: float | None = None
    while True:
        try:
            async with contextlib.aclosing(_round(client, keys, cursor)) as commits:
                async for commit in commits:
                    if lost_at is not None:
                        log.info("log follower regained etcd", outage_s=round(time.monotonic() - lost_at, 3))
                    broken, pause_s, lost_at = 0, _PAUSE_FIRST_S, None
                    if commit is None:
                        at_head()
                    else:
                        yield commit
        except Unavailable as error:
            if lost_at is None:
                lost_at = time.monotonic()
                log.warning("log follower lost etcd", next_seq=cursor.next_seq, reason=str(error))
        except Compacted as error:
            log.info("log follower reads again", next_seq=cursor.next_seq, reason=str(error))
            continue
        except LogBroken as error:
            broken += 1
            log.error("log follower finds the log broken", seq=error.seq, reason=error.reason, reading=broken)
            if broken >= _READINGS:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _PAUSE_MOST_S)


async def _round(client: EtcdClient, keys: Keys, cursor: Cursor) -> AsyncGenerator[Commit | None, None]:
    """None: the store answered and the cursor is at its head. Ends to be begun again."""
    present = await read_bounds(client, keys)
    reading = read_commits(client, keys, cursor, present)
    async with contextlib.aclosing(reading):
        async for commit in reading:
            yield commit
    yield None
    watching = _watch(client, keys, cursor, present.revision + 1)
    async with contextlib.aclosing(watching):
        async for one in watching:
            yield one


async def _watch(client: EtcdClient, keys: Keys, cursor: Cursor, revision: int) -> AsyncGenerator[Commit | None, None]:
    """Commits as the watch brings them, until it brings something odd or is behind the head. None: a poll was answered
    and found nothing odd."""
    start, end = prefix_range(keys.log)
    batches = client.watch_range(start, end, revision)
    pending: asyncio.Task[tuple[Event, ...]] | None = None
    known_next_seq = cursor.next_seq
    try:
        while True:
            pending = pending or asyncio.create_task(_next_batch(batches), name="kvstore watch")
            behind = cursor.next_seq < known_next_seq
            await asyncio.wait({pending}, timeout=_LAG_S if behind else _POLL_S)
            if pending.done():
                events, pending = pending.result(), None
                for event in events:
                    try:
                        commit = _take_commit(cursor, event)
                    except LogBroken as odd:
                        log.warning("the watch brought what does not follow", seq=odd.seq, reason=odd.reason)
                        return
                    if commit is not None:
                        yield commit
            elif behind:
                log.warning("the watch is behind the log", next_seq=cursor.next_seq, head_next_seq=known_next_seq)
                return
            else:
                present = await read_bounds(client, keys, _POLL_PATIENCE_S)
                # The watch can have delivered meanwhile, but into `pending`: the cursor has not moved.
                cursor.check_end(present.head.next_seq, present.head.chain)
                known_next_seq = present.head.next_seq
                yield None
    finally:
        if pending is not None:
            pending.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await pending
        await batches.aclose()


def _take_commit(cursor: Cursor, event: Event) -> Commit | None:
    """The commit to pass on; None for one that we had, or one that was trimmed."""
    if event.is_delete:
        return None
    commit = decode_commit(event.kv.value, event.kv.mod_revision)
    if commit.records and commit.last_seq < cursor.next_seq:
        return None
    cursor.advance(commit)
    return commit


async def _next_batch(batches: AsyncGenerator[tuple[Event, ...], None]) -> tuple[Event, ...]:
    return await anext(batches)
