"""The log: one writer wins, readers get every commit once, and a store that was tampered with is found out."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence

import pytest

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import (
    CHAIN_START,
    COMMIT_BYTES_MAX,
    COMMIT_RECORDS_MAX,
    Commit,
    chain_over,
    encode_commit,
    split_records,
)
from kilim.kvstore.errors import Conflict, LogBroken, TooLarge
from kilim.kvstore.head import LogHead, encode_head
from kilim.kvstore.keys import Keys
from kilim.kvstore.log import EventLog

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def _append_groups(log: EventLog, groups: Sequence[Sequence[bytes]]) -> LogHead:
    head = await log.head()
    for group in groups:
        _, head = await log.append(head, group)
    return head


async def _take(commits: AsyncIterator[Commit], last_seq: int) -> list[Commit]:
    taken = []
    async for commit in commits:
        taken.append(commit)
        if commit.last_seq >= last_seq:
            break
    await commits.aclose()  # type: ignore[attr-defined]
    return taken


async def test_an_empty_log(log: EventLog) -> None:
    assert await log.head() == LogHead(1, CHAIN_START, 0, "")
    assert [commit async for commit in log.read(1)] == []
    assert [commit async for commit in log.read(7)] == []


async def test_append_makes_the_head_it_returns(log: EventLog) -> None:
    first, after_first = await log.append(await log.head(), [b"1", b"2"])
    assert (first.first_seq, first.last_seq, first.chain_before) == (1, 2, CHAIN_START)
    assert after_first == await log.head()
    assert after_first.chain == chain_over(CHAIN_START, [b"1", b"2"])
    second, after_second = await log.append(after_first, [b"3"])
    assert (second.first_seq, second.chain_before) == (3, first.chain_after)
    assert [commit async for commit in log.read(1)] == [first, second]
    assert after_second.next_seq == 4


async def test_the_slower_writer_gets_the_head_with_the_conflict(log: EventLog) -> None:
    start = await log.head()
    _, head = await log.append(start, [b"1"])
    with pytest.raises(Conflict) as conflict:
        await log.append(start, [b"other"])
    assert conflict.value.head == head
    await log.append(conflict.value.head, [b"2"])


async def test_concurrent_appenders_lose_and_double_nothing(client: EtcdClient, cluster: str) -> None:
    async def write(writer: int) -> list[bytes]:
        log, wrote = EventLog(client, cluster), []
        head = await log.head()
        while len(wrote) < 25:
            record = b"%d-%d" % (writer, len(wrote))
            try:
                _, head = await log.append(head, [record])
            except Conflict as conflict:
                head = conflict.head
            else:
                wrote.append(record)
        return wrote

    wrote = await asyncio.gather(*(write(writer) for writer in range(4)))
    read = [record async for commit in EventLog(client, cluster).read(1) for record in commit.records]
    assert len(read) == 100
    for records in wrote:
        assert [record for record in read if record in records] == records


async def test_what_is_too_large_is_refused_and_can_be_split(log: EventLog) -> None:
    head = await log.head()
    records = [bytes([n]) * 100_000 for n in range(25)]
    with pytest.raises(TooLarge):
        await log.append(head, records)
    with pytest.raises(TooLarge):
        await log.append(head, [b""] * (COMMIT_RECORDS_MAX + 1))
    with pytest.raises(TooLarge):
        await log.append(head, [bytes(COMMIT_BYTES_MAX)])
    with pytest.raises(ValueError, match="at least one"):
        await log.append(head, [])
    await _append_groups(log, list(split_records(records)))
    assert [record async for commit in log.read(1) for record in commit.records] == records


async def test_reading_across_commits_from_and_to_any_seq(log: EventLog) -> None:
    rng = random.Random(7)
    sizes = [1, 1, 2, COMMIT_RECORDS_MAX, 1, 700, 3, 1, 1500, *(rng.randint(1, 90) for _ in range(40))]
    head = await _append_groups(log, [[b"%d" % n for n in range(size)] for size in sizes])
    commits = [commit async for commit in log.read(1)]
    assert [len(commit.records) for commit in commits] == sizes
    last = head.next_seq - 1
    for _ in range(40):
        low = rng.randint(1, last)
        high = rng.randint(low, last)
        expected = [commit for commit in commits if commit.last_seq >= low and commit.first_seq <= high]
        assert [commit async for commit in log.read(low, high)] == expected
        chain = chain_over(CHAIN_START, (r for c in commits for r in c.records if c.last_seq < low))
        holding = next(commit for commit in commits if commit.last_seq >= low)
        chain = chain_over(holding.chain_before, holding.records[: low - holding.first_seq])
        assert await _take(log.follow(low, chain), high) == expected


async def test_a_hundred_thousand_records(log: EventLog) -> None:
    records = [b"%06d" % n + bytes(150) for n in range(100_000)]
    groups: list[list[bytes]] = []
    rng, at = random.Random(3), 0
    while at < len(records):
        size = rng.choice((1, 50, 400, 2000))
        groups.append(records[at : at + size])
        at += size
    await _append_groups(log, groups)
    read = [record async for commit in log.read(1) for record in commit.records]
    assert read == records


async def test_a_follower_gets_old_and_new(log: EventLog) -> None:
    head = await _append_groups(log, [[b"1", b"2"], [b"3"]])
    following = asyncio.create_task(_take(log.follow(1, CHAIN_START), 60))
    for n in range(57):
        _, head = await log.append(head, [b"%d" % n])
    commits = await following
    assert [commit.first_seq for commit in commits] == [1, *range(3, 61)]
    assert commits == [commit async for commit in log.read(1)]


async def test_a_follower_of_an_empty_log_waits(log: EventLog) -> None:
    following = asyncio.create_task(_take(log.follow(1, CHAIN_START), 1))
    commit, _ = await log.append(await log.head(), [b"1"])
    assert await following == [commit]


async def test_a_follower_survives_compaction(client: EtcdClient, log: EventLog) -> None:
    head = await _append_groups(log, [[b"1"]])
    async with contextlib.aclosing(log.follow(1, CHAIN_START)) as commits:
        assert (await anext(commits)).first_seq == 1
        for n in range(2, 20):
            _, head = await log.append(head, [b"%d" % n])
        await client.maintenance.compact(head.mod_revision, physical=True)
        assert [(await anext(commits)).first_seq for _ in range(2, 20)] == list(range(2, 20))


# --- tampering ---


async def _broken(commits: AsyncIterator[Commit]) -> LogBroken:
    with pytest.raises(LogBroken) as broken:
        async for _ in commits:
            pass
    return broken.value


async def test_a_missing_commit_is_a_gap(client: EtcdClient, cluster: str, log: EventLog) -> None:
    await _append_groups(log, [[b"1"], [b"2", b"3"], [b"4"]])
    await client.delete(Keys(cluster).commit(2))
    assert (await _broken(log.read(1))).seq == 2
    assert (await _broken(log.read(3))).seq == 3
    assert (await _broken(log.follow(1, CHAIN_START))).seq == 2


async def test_a_missing_first_and_a_missing_last_commit(client: EtcdClient, cluster: str, log: EventLog) -> None:
    await _append_groups(log, [[b"1"], [b"2"], [b"3"]])
    await client.delete(Keys(cluster).commit(3))
    assert (await _broken(log.read(1))).seq == 3
    await client.delete(Keys(cluster).commit(1))
    assert (await _broken(log.read(1))).seq == 1


async def test_a_changed_record_breaks_the_chain(client: EtcdClient, cluster: str, log: EventLog) -> None:
    await _append_groups(log, [[b"1"], [b"2"], [b"3"]])
    (second,) = [commit async for commit in log.read(2, 2)]
    forged = encode_commit(2, second.chain_before, [b"forged"], second.append_id)
    await client.put(Keys(cluster).commit(2), forged.encoded)
    assert (await _broken(log.read(1))).seq == 3
    assert (await _broken(log.follow(1, CHAIN_START))).seq == 3
    await client.put(Keys(cluster).commit(2), second.encoded.replace(b"2", b"X"))
    assert (await _broken(log.read(1))).seq == 2


async def test_a_commit_under_a_foreign_key(client: EtcdClient, cluster: str, log: EventLog) -> None:
    await _append_groups(log, [[b"1"], [b"2"]])
    (first,) = [commit async for commit in log.read(1, 1)]
    await client.put(Keys(cluster).commit(2), first.encoded)
    assert (await _broken(log.read(1))).seq == 2


async def test_a_follower_with_another_history_is_told(log: EventLog) -> None:
    await _append_groups(log, [[b"1", b"2"], [b"3"]])
    other = bytes([1]) * 32
    for seq in (2, 3, 4):
        assert (await _broken(log.follow(seq, other))).seq == seq
    assert (await _broken(log.follow(9, other))).seq == 4


async def test_a_watch_that_skips_is_not_believed(client: EtcdClient, cluster: str, log: EventLog) -> None:
    """A commit that was written beside the log's rules: the follower asks the store, which knows it as broken."""
    await _append_groups(log, [[b"1"]])
    async with contextlib.aclosing(log.follow(1, CHAIN_START)) as commits:
        assert (await anext(commits)).first_seq == 1
        pending = asyncio.ensure_future(anext(commits))
        stray = encode_commit(5, bytes(32), [b"stray"])
        await client.put(Keys(cluster).commit(5), stray.encoded)
        second, _ = await log.append(await log.head(), [b"2"])
        assert await pending == second


async def test_a_head_that_goes_backwards_is_data_loss(client: EtcdClient, cluster: str, log: EventLog) -> None:
    old = await _append_groups(log, [[b"1"]])
    head = await _append_groups(log, [[b"2"], [b"3"]])
    commits = log.follow(1, CHAIN_START)
    assert [(await anext(commits)).last_seq for _ in range(3)] == [1, 2, 3]
    following = asyncio.create_task(_broken(commits))
    keys = Keys(cluster)
    await client.put(keys.head, encode_head(old))
    await client.delete_range(keys.commit(2), keys.commit(4))
    assert (await following).seq == 2
    with pytest.raises(LogBroken, match="ends before"):
        await log.append(head, [b"4"])
