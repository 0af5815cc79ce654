"""What many are sent alike is made once; who waits is woken by news, by its heartbeat, and by nothing else."""

from __future__ import annotations

import asyncio
import contextlib

from kilim.controlplane.api.broadcast import GROUPS, HELD_MESSAGES, Beat, Messages
from kilim.controlplane.history import History
from kilim.kvstore.commit import encode_commit
from kilim.v1 import controlplane_pb2 as api

DIGEST = bytes(32)


def add(history: History, records: int = 1, size: int = 10) -> None:
    commit = encode_commit(history.seq + 1, history.chain, [bytes(size)] * records)
    history.add(commit, [DIGEST] * records)


def test_the_same_bytes_for_all_who_are_at_the_same_place() -> None:
    history = History()
    messages = Messages(history)
    add(history, 3)
    add(history)
    one, other = messages.after(1), messages.after(1)
    assert one is not None and other is not None and one.encoded is other.encoded and one.last_seq == 4
    sent = api.SubscribeResponse.FromString(one.encoded)
    assert [bytes(each) for each in sent.commits.commits] == [held.encoded for held in history.next_batch(1) or ()]
    live = messages.after(4)
    assert live is not None and api.SubscribeResponse.FromString(live.encoded).commit
    assert messages.head().encoded is messages.head().encoded
    add(history)
    grown = messages.after(1)
    assert grown is not None and grown.last_seq == 5
    assert api.SubscribeResponse.FromString(messages.head().encoded).head.seq == 5


def test_few_messages_are_kept() -> None:
    history = History()
    messages = Messages(history)
    for _ in range(HELD_MESSAGES * 3):
        add(history)
    for cursor in range(1, history.seq + 1):
        messages.after(cursor)
    assert len(messages._made) == HELD_MESSAGES


def test_what_fell_out_is_not_invented() -> None:
    history = History(max_bytes=300)
    for _ in range(20):
        add(history, size=50)
    assert Messages(history).after(1) is None


async def test_who_waits_is_woken_by_news_and_by_heartbeats() -> None:
    history = History()
    beat = Beat(history, heartbeat_s=0.05)
    running = asyncio.create_task(beat.run())
    group = beat.join()
    async with asyncio.timeout(10):
        while beat.count(group) < 2:
            await beat.wait(group)
        add(history)
        while beat.seq < 1:
            await beat.wait(group)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def test_heartbeats_are_spread() -> None:
    beat = Beat(History(), 1.0)
    groups = [beat.join() for _ in range(GROUPS * 3)]
    assert {groups.count(group) for group in range(GROUPS)} == {3}
