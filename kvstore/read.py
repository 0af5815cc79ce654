"""Reading the log by seq, from one revision of the store, a page ahead of the reader.

Easy to get wrong: paging an open range by `limit` is quadratic in etcd (it counts the rest for every page), so pages
are windows of seqs with both ends bound. A window may hold no key at all: a commit that starts before it can span it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from kilim.kvstore import transaction
from kilim.kvstore.calls import CALL_TIMEOUT_S, Repeat
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import COMMIT_RECORDS_MAX, Commit, decode_commit
from kilim.kvstore.cursor import Cursor
from kilim.kvstore.errors import FutureRevision, LogBroken, Trimmed
from kilim.kvstore.head import EMPTY_HEAD, LogHead, decode_head
from kilim.kvstore.keys import Keys
from kilim.kvstore.keyvalue import RangeResult
from kilim.kvstore.start import FIRST_START, LogStart, decode_start

_PAGE_FIRST_SEQS = 512
_PAGE_SEQS_MAX = 50_000
_PAGE_BYTES_AIM = 2 << 20
_BACK_FIRST_SEQS = 32


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where the log begins and ends, and the store's revision at which it was that."""

    start: LogStart
    head: LogHead
    revision: int


async def read_bounds(client: EtcdClient, keys: Keys, timeout_s: float = CALL_TIMEOUT_S) -> Bounds:
    gets = [transaction.get(keys.start), transaction.get(keys.head)]
    result = await client.transaction([], gets, repeat=Repeat.READ, timeout_s=timeout_s)
    starts, heads = result.found
    start = decode_start(starts[0].value, starts[0].mod_revision) if starts else FIRST_START
    head = decode_head(heads[0].value, heads[0].mod_revision) if heads else EMPTY_HEAD
    if start.first_seq > head.next_seq:
        raise LogBroken(head.next_seq, f"the log ends before it, but starts at {start.first_seq}: etcd lost data")
    return Bounds(start, head, result.revision)


async def read_commits(
    client: EtcdClient, keys: Keys, cursor: Cursor, bounds: Bounds, to_seq: int | None = None
) -> AsyncGenerator[Commit, None]:
    """Every commit from the one that holds the cursor's place to the one that holds `to_seq` (default: the head's
    last), as of one revision. Moves the cursor before it yields. Raises Trimmed, LogBroken, Compacted, Unavailable."""
    start, head = bounds.start, bounds.head
    cursor.check_end(head.next_seq, head.chain)
    end = head.next_seq if to_seq is None else min(to_seq + 1, head.next_seq)
    if cursor.next_seq < start.first_seq:
        raise Trimmed(start.first_seq)
    cursor.check_start(start.first_seq, start.chain_before)
    if cursor.next_seq >= end:
        return
    low = await first_seq_holding(client, keys, cursor.next_seq, bounds)
    async with contextlib.aclosing(_pages(client, keys, low, end, bounds.revision)) as pages:
        async for page in pages:
            for kv in page.kvs:
                commit = decode_commit(kv.value, kv.mod_revision)
                if kv.key != keys.commit(commit.first_seq):
                    raise LogBroken(cursor.next_seq, f"the key {kv.key.decode()} holds seq {commit.first_seq}")
                cursor.advance(commit)
                yield commit
    if cursor.next_seq < end:
        raise LogBroken(cursor.next_seq, f"missing, though the head is at {head.next_seq}")
    cursor.check_end(head.next_seq, head.chain)


async def first_seq_holding(client: EtcdClient, keys: Keys, seq: int, bounds: Bounds) -> int:
    """Where the commit starts that holds `seq`: the last key not after it, mostly its own."""
    back = _BACK_FIRST_SEQS
    while True:
        low = max(bounds.start.first_seq, seq + 1 - back)
        found = await _range(client, keys, low, seq + 1, bounds.revision, keys_only=True)
        if found.kvs:
            return int(found.kvs[-1].key[len(keys.log) :])
        if low == bounds.start.first_seq or back >= COMMIT_RECORDS_MAX:
            raise LogBroken(seq, "missing, and no commit before it reaches it")
        back = min(back * 16, COMMIT_RECORDS_MAX)


async def _pages(
    client: EtcdClient, keys: Keys, start: int, end: int, revision: int
) -> AsyncGenerator[RangeResult, None]:
    """Windows of seqs, wide enough for some 2 MiB by the size of the last one, the next always on its way."""
    width = _PAGE_FIRST_SEQS

    def fetch(low: int, high: int) -> asyncio.Task[RangeResult]:
        return asyncio.create_task(_range(client, keys, low, high, revision), name="kvstore page")

    low, high = start, min(start + width, end)
    pending = fetch(low, high)
    try:
        while True:
            page = await pending
            size = sum(len(kv.value) for kv in page.kvs)
            width = _next_width(width, high - low, size)
            low, high = high, min(high + width, end)
            if low >= end:
                yield page
                return
            pending = fetch(low, high)
            yield page
    finally:
        pending.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await pending


def _next_width(width: int, seqs: int, size: int) -> int:
    """Never more than eight times the last one: what one page weighs says little about a much wider one."""
    fitting = _PAGE_BYTES_AIM * seqs // max(size, 1)
    return max(16, min(fitting, width * 8, _PAGE_SEQS_MAX))


async def _range(
    client: EtcdClient, keys: Keys, low: int, high: int, revision: int, *, keys_only: bool = False
) -> RangeResult:
    try:
        return await client.get_range(keys.commit(low), keys.commit(high), revision=revision, keys_only=keys_only)
    except FutureRevision as error:
        raise LogBroken(low, f"etcd does not know its own revision {revision} any more: it lost data") from error
