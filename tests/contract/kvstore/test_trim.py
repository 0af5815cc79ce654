"""A trimmed log: it begins later, is whole at every moment, and whoever is too late is told."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from kilim.kvstore import trim
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import CHAIN_START, Commit
from kilim.kvstore.errors import Conflict, LogBroken, Trimmed
from kilim.kvstore.keys import Keys
from kilim.kvstore.log import EventLog
from kilim.kvstore.span import Span
from kilim.kvstore.start import FIRST_START, encode_start

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def _fill(log: EventLog, sizes: list[int]) -> list[Commit]:
    head = await log.head()
    commits = []
    for size in sizes:
        commit, head = await log.append(head, [b"%d" % n for n in range(size)])
        commits.append(commit)
    return commits


async def _read(log: EventLog, from_seq: int, to_seq: int | None = None) -> list[Commit]:
    return [commit async for commit in log.read(from_seq, to_seq)]


async def _trimmed(log: EventLog, from_seq: int, chain: bytes) -> tuple[int, int]:
    """What a reader and a follower are told."""
    with pytest.raises(Trimmed) as reading:
        await _read(log, from_seq)
    async with contextlib.aclosing(log.follow(from_seq, chain)) as commits:
        with pytest.raises(Trimmed) as following:
            await anext(commits)
    return reading.value.first_seq, following.value.first_seq


async def test_a_log_that_was_never_trimmed(log: EventLog) -> None:
    assert await log.start() == FIRST_START
    assert await log.trim(5) == FIRST_START
    await _fill(log, [2])
    assert await log.trim(1) == FIRST_START
    assert await log.trim(2) == FIRST_START


async def test_commits_before_the_one_asked_for_are_forgotten(log: EventLog) -> None:
    commits = await _fill(log, [1, 3, 2, 4])
    start = await log.trim(6)
    assert (start.first_seq, start.chain_before) == (5, commits[1].chain_after)
    assert await log.start() == start
    assert await log.span() == Span(5, commits[1].chain_after, 10, commits[3].chain_after)
    assert await _read(log, 5) == commits[2:]
    assert await _read(log, 6, 6) == [commits[2]]
    assert await _trimmed(log, 4, commits[0].chain_after) == (5, 5)
    assert await _trimmed(log, 1, CHAIN_START) == (5, 5)
    for earlier in (1, 5, 6):
        assert await log.trim(earlier) == start
    async with contextlib.aclosing(log.follow(5, start.chain_before)) as following:
        assert [await anext(following), await anext(following)] == commits[2:]


async def test_the_last_commit_stays(log: EventLog) -> None:
    commits = await _fill(log, [1, 3])
    assert (await log.trim(1 << 40)).first_seq == 2
    assert await _read(log, 2) == commits[1:]
    (more,) = await _fill(log, [1])
    assert await _read(log, 3) == [commits[1], more]


async def test_another_history_at_the_start_is_told(log: EventLog) -> None:
    await _fill(log, [1, 3, 1])
    await log.trim(2)
    async with contextlib.aclosing(log.follow(2, bytes([1]) * 32)) as commits:
        with pytest.raises(LogBroken, match="starts after chain"):
            await anext(commits)


async def test_a_missing_first_commit_is_a_gap_and_not_a_trim(client: EtcdClient, cluster: str, log: EventLog) -> None:
    await _fill(log, [1, 3, 1, 1])
    await log.trim(2)
    await client.delete(Keys(cluster).commit(2))
    for seq in (2, 3, 4):
        with pytest.raises(LogBroken, match=f"seq {seq}: missing"):
            await _read(log, seq)


async def test_a_start_that_does_not_fit_is_a_broken_log(client: EtcdClient, cluster: str, log: EventLog) -> None:
    commits = await _fill(log, [1, 3, 1])
    await client.put(Keys(cluster).start, encode_start(2, bytes([7]) * 32))
    with pytest.raises(LogBroken, match="follows chain"):
        await _read(log, 2)
    await client.put(Keys(cluster).start, encode_start(9, commits[2].chain_after))
    with pytest.raises(LogBroken, match="starts at 9: etcd lost data"):
        await log.head()
    await client.put(Keys(cluster).start, b"\xff")
    with pytest.raises(LogBroken, match="holds no start"):
        await log.start()


async def test_trims_in_steps(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trim, "_STEP_SEQS", 7)
    rng = random.Random(4)
    commits = await _fill(log, [rng.randint(1, 5) for _ in range(60)])
    middle = commits[40]
    first = asyncio.create_task(log.trim(middle.last_seq))
    starts = set()
    while not first.done():
        starts.add((await log.start()).first_seq)
        await asyncio.sleep(0)
    assert (await first).first_seq == middle.first_seq
    assert starts <= {commit.first_seq for commit in commits}
    assert await _read(log, middle.first_seq) == commits[40:]


async def test_two_trims_at_once(
    client: EtcdClient, cluster: str, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trim, "_STEP_SEQS", 7)
    commits = await _fill(log, [3] * 40)
    ends = await asyncio.gather(*(EventLog(client, cluster).trim(seq) for seq in (100, 31, 100, 62)))
    assert [start.first_seq for start in ends if start.first_seq == 100]
    assert (await log.start()).first_seq == 100
    assert await _read(log, 100) == commits[33:]


async def test_a_reader_is_overtaken(client: EtcdClient, log: EventLog) -> None:
    """By a trim and a compaction: without the latter it would read the log as it was."""
    await _fill(log, [500] * 60)
    reading = log.read(1)
    assert (await anext(reading)).first_seq == 1
    start = await log.trim(29_600)
    await client.maintenance.compact(start.mod_revision, physical=True)
    with pytest.raises(Trimmed) as trimmed:
        async for _ in reading:
            pass
    assert trimmed.value.first_seq == start.first_seq == 29_501


async def test_a_reader_outlives_a_compaction(client: EtcdClient, log: EventLog) -> None:
    commits = await _fill(log, [500] * 60)
    reading = log.read(1)
    seen = [await anext(reading)]
    _, head = await log.append(await log.head(), [b"later"])
    await client.maintenance.compact(head.mod_revision, physical=True)
    seen += [commit async for commit in reading]
    assert seen == commits


async def test_appends_and_trims_and_readers_at_once(client: EtcdClient, cluster: str) -> None:
    """Each reading gives the log from a start on, or says Trimmed; never anything else."""
    stop = asyncio.Event()

    async def append() -> None:
        log, rng = EventLog(client, cluster), random.Random(1)
        head = await log.head()
        while not stop.is_set():
            with contextlib.suppress(Conflict):
                _, head = await log.append(head, [b"x"] * rng.randint(1, 6))

    async def trim_on() -> None:
        log = EventLog(client, cluster)
        while not stop.is_set():
            await log.trim((await log.head()).last_seq - 20)

    async def read(rng: random.Random) -> tuple[int, int]:
        log, whole, late = EventLog(client, cluster), 0, 0
        while whole < 60 or late < 5:
            start = await log.start()
            try:
                commits = await _read(log, start.first_seq if rng.random() < 0.7 else max(start.first_seq - 1, 1))
            except Trimmed:
                late += 1
            else:
                assert all(b.first_seq == a.last_seq + 1 for a, b in zip(commits, commits[1:], strict=False))
                whole += 1
        return whole, late

    working = [asyncio.create_task(one) for one in (append(), trim_on(), trim_on())]
    try:
        await asyncio.gather(*(read(random.Random(n)) for n in range(3)))
    finally:
        stop.set()
        await asyncio.gather(*working)
