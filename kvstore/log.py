"""The append-only log in etcd: guarded appends, paged reads, following for ever (I3).

Easy to get wrong: a failed compare after a retry may be our own success. The append id in head and commit tells.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

from kilim.kvstore import transaction
from kilim.kvstore.calls import CALL_TIMEOUT_S, Repeat
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import (
    COMMIT_BYTES_MAX,
    COMMIT_RECORDS_MAX,
    Commit,
    decode_commit,
    encode_commit,
    split_records,
)
from kilim.kvstore.cursor import Cursor
from kilim.kvstore.errors import Compacted, Conflict, LogBroken, OutcomeUnknown, TooLarge
from kilim.kvstore.follow import follow_commits
from kilim.kvstore.head import EMPTY_HEAD, LogHead, decode_head, encode_head, head_after
from kilim.kvstore.keys import Keys
from kilim.kvstore.keyvalue import KeyValue
from kilim.kvstore.read import read_bounds, read_commits
from kilim.kvstore.span import Span
from kilim.kvstore.start import LogStart
from kilim.kvstore.trim import trim_log
from kilim.kvstore.turn import Asked, decode_asked

__all__ = ["EventLog", "LogHead", "LogStart", "split_records"]


class EventLog:
    def __init__(self, client: EtcdClient, cluster: str = "default") -> None:
        self._client = client
        self._keys = Keys(cluster)
        self.writer = secrets.token_hex(8)
        self._appends = itertools.count(1)
        self.append_id = ""  # of our last append: who has not heard of its outcome knows its commit by that
        self.asked: Asked | None = None  # who asked for the turn, as of our last append (`ask_turn`)
        self._asks = False

    async def head(self) -> LogHead:
        """What the next append must follow; next_seq 1 and mod_revision 0 where nothing was ever appended."""
        return (await read_bounds(self._client, self._keys)).head

    async def start(self) -> LogStart:
        """Where the log begins: at event 1 until it is trimmed."""
        return (await read_bounds(self._client, self._keys)).start

    async def span(self) -> Span:
        present = await read_bounds(self._client, self._keys)
        return Span(present.start.first_seq, present.start.chain_before, present.head.last_seq, present.head.chain)

    async def trim(self, first_seq: int) -> LogStart:
        """Forgets the commits wholly before the one that holds `first_seq`, but never the last one; where they are
        forgotten already it does nothing. Readers see the log as before or as after, or Trimmed. Raises NoSpace while
        etcd's alarm is on: it writes where the log begins now."""
        return await trim_log(self._client, self._keys, first_seq)

    async def append(
        self, after: LogHead, records: Sequence[bytes], *, timeout_s: float = CALL_TIMEOUT_S
    ) -> tuple[Commit, LogHead]:
        """All records or none, exactly after `after`; returns the commit and the head that it made.

        Raises Conflict (with the present head), TooLarge, Unavailable (surely not applied), OutcomeUnknown, and
        LogBroken where the head went backwards."""
        commit = self._encode(after, records)
        head_value = encode_head(head_after(commit))
        result = await self._client.transaction(
            compare=[transaction.mod_revision_is(self._keys.head, after.mod_revision)],
            success=[
                transaction.put(self._keys.commit(commit.first_seq), commit.encoded),
                transaction.put(self._keys.head, head_value),
                transaction.delete(self._keys.turn) if self._asks else transaction.get(self._keys.turn),
            ],
            failure=[transaction.get(self._keys.head)],
            repeat=Repeat.HARMLESS,
            timeout_s=timeout_s,
        )
        applied_at = result.revision
        if not result.succeeded:
            applied_at = await self._find_own(commit, after, result.found[0], result.repeated)
        else:
            self.asked = decode_asked(result.found[-1][0].value) if result.found[-1] else None
            self._asks = False
        commit = replace(commit, revision=applied_at)
        return commit, head_after(commit)

    async def ask_turn(self, slot_s: float) -> None:
        """Whoever appends is told, by `asked`, that this writer would like to be alone for so long. A courtesy: nothing
        is guarded by it, and our next append takes it back."""
        self._asks = True
        asked = Asked(self.writer, next(self._appends), round(slot_s * 1e3))
        await self._client.put(self._keys.turn, asked.encode())

    def _encode(self, after: LogHead, records: Sequence[bytes]) -> Commit:
        if len(records) > COMMIT_RECORDS_MAX:
            raise TooLarge(f"{len(records)} records; a commit holds at most {COMMIT_RECORDS_MAX}")
        self.append_id = f"{self.writer}-{next(self._appends)}"
        commit = encode_commit(after.next_seq, after.chain, records, self.append_id)
        if len(commit.encoded) >= COMMIT_BYTES_MAX:
            raise TooLarge(f"a commit of {len(commit.encoded)} bytes; it must be under {COMMIT_BYTES_MAX}")
        return commit

    async def _find_own(self, commit: Commit, after: LogHead, found: tuple[KeyValue, ...], repeated: bool) -> int:
        """The compare failed: the revision at which an earlier try of ours was applied, else raises."""
        head = decode_head(found[0].value, found[0].mod_revision) if found else EMPTY_HEAD
        if head.append_id == commit.append_id:
            return head.mod_revision
        if head.next_seq < after.next_seq:
            raise LogBroken(head.next_seq, f"the log ends before it, we were to append at {after.next_seq}")
        if head.next_seq == after.next_seq and head.chain != after.chain:
            raise LogBroken(head.next_seq, "the head has our seq with another chain")
        if not repeated or head.next_seq == after.next_seq:
            raise Conflict(head)
        # Others may have appended after our unanswered try.
        first = await self._client.get(self._keys.commit(commit.first_seq))
        if first is None:
            raise OutcomeUnknown(f"seq {commit.first_seq} is trimmed already")
        if decode_commit(first.value).append_id == commit.append_id:
            return first.mod_revision
        raise Conflict(head)

    async def read(self, from_seq: int, to_seq: int | None = None) -> AsyncGenerator[Commit, None]:
        """From the commit that holds `from_seq` to the one that holds `to_seq` (default: the last one there is now),
        dense and with a whole chain, else LogBroken. Trimmed where the log begins after `from_seq`, or comes to while
        it is read. Unavailable can come in the middle: read on from last_seq + 1."""
        cursor = Cursor(from_seq, None)
        while True:
            present = await read_bounds(self._client, self._keys)
            to_seq = present.head.last_seq if to_seq is None else to_seq
            if cursor.next_seq > min(to_seq, present.head.last_seq):
                return
            reading = read_commits(self._client, self._keys, cursor, present, to_seq)
            # Compacted: the revision that it was read at is gone, the commits are not.
            with contextlib.suppress(Compacted):
                async with contextlib.aclosing(reading) as commits:
                    async for commit in commits:
                        yield commit
                return

    def follow(
        self, from_seq: int, chain_before: bytes, at_head: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[Commit, None]:
        """From the commit that holds `from_seq` on, for ever; `chain_before` is the chain of event from_seq - 1;
        `at_head` is called whenever all that is stored was passed on. Waits out an etcd that is away. Raises Trimmed,
        LogBroken, Denied and what else waiting does not help against."""
        return follow_commits(self._client, self._keys, Cursor(from_seq, chain_before), at_head)
