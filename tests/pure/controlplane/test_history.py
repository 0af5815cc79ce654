"""What is held in memory: batches within limits, what falls out, chains and digests by seq."""

from __future__ import annotations

import asyncio

import pytest

from kilim.controlplane.decide.view import Defaults, View
from kilim.controlplane.expiry import Unused, unused_identities
from kilim.controlplane.history import BATCH_EVENTS, History
from kilim.kvstore.commit import CHAIN_START, Commit, chain_over, encode_commit
from kilim.model.state import State
from kilim.v1 import events_pb2 as pb


def digest_of(seq: int) -> bytes:
    return seq.to_bytes(32, "big")


def fill(history: History, sizes: list[int], record: bytes = b"record") -> list[Commit]:
    commits = []
    for size in sizes:
        commit = encode_commit(history.seq + 1, history.chain, [record] * size)
        history.add(commit, [digest_of(history.seq + 1 + n) for n in range(size)])
        commits.append(commit)
    return commits


def test_batches_are_bounded_by_events_and_never_tear_a_commit() -> None:
    history = History()
    fill(history, [1, 2, 3] * 200)
    cursor, sizes = 1, []
    while batch := history.next_batch(cursor):
        assert batch[0].first_seq == cursor
        sizes.append(batch[-1].last_seq - cursor + 1)
        cursor = batch[-1].last_seq + 1
    assert cursor == history.seq + 1 == 1201
    assert max(sizes) <= BATCH_EVENTS


def test_a_commit_larger_than_a_batch_goes_alone() -> None:
    history = History()
    fill(history, [1, BATCH_EVENTS + 1, 1])
    first, second = history.next_batch(1), history.next_batch(2)
    assert first is not None and second is not None
    assert [len(first), len(second)] == [1, 1]


def test_old_commits_fall_out() -> None:
    history = History(max_bytes=5000)
    commits = fill(history, [1] * 3000)
    assert history.next_batch(1) is None
    assert history.next_batch(history.first_seq - 1) is None
    assert history.chain_at(history.first_seq - 2) is None
    oldest = history.next_batch(history.first_seq)
    assert oldest is not None and oldest[0].encoded == commits[history.first_seq - 1].encoded
    assert sum(len(commit.encoded) for commit in commits[history.first_seq - 1 :]) <= 5000


def test_chains_and_commit_starts() -> None:
    history = History()
    fill(history, [2, 3])
    for seq in range(6):
        assert history.chain_at(seq) == chain_over(CHAIN_START, [b"record"] * seq)
    assert [commit and commit.first_seq for commit in map(history.commit_with, range(7))] == [None, 1, 1, 3, 3, 3, None]
    assert history.chain_at(6) is None


def test_digests_are_remembered_for_a_while() -> None:
    history = History(max_digests=4)
    fill(history, [2, 3])
    assert [history.digest_at(seq) for seq in range(7)] == [None, None, *(digest_of(s) for s in (2, 3, 4, 5)), None]


def test_after_a_restart_only_what_follows_the_snapshot_is_known() -> None:
    history = History()
    fill(history, [2, 3])
    chain = chain_over(CHAIN_START, [b"record"] * 40)
    history.restart(40, chain, digest_of(40))
    assert (history.seq, history.first_seq, history.chain_at(40), history.chain_at(5)) == (40, 41, chain, None)
    assert (history.next_batch(6), history.next_batch(41), history.commit_with(40)) == (None, [], None)
    assert [history.digest_at(seq) for seq in (5, 39, 40, 41)] == [None, None, digest_of(40), None]
    fill(history, [2])
    assert [history.digest_at(seq) for seq in (39, 40, 42)] == [None, digest_of(40), digest_of(42)]
    assert history.chain_at(42) == chain_over(CHAIN_START, [b"record"] * 42)
    assert history.next_batch(40) is None and len(history.next_batch(41) or []) == 1


@pytest.mark.asyncio
async def test_waiting_ends_with_the_next_commit() -> None:
    history = History()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waits = [group.create_task(history.wait(0)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waits)
        fill(history, [1])


def test_identities_are_unused_from_when_they_were_seen_to_be() -> None:
    state, unused = State(), Unused[int]()

    def expired(now_s: float, grace_s: float) -> tuple[int, ...]:
        return unused.expired(unused_identities(View(state, Defaults())), now_s, grace_s)

    for number in (256, 257, 1 << 24):
        state.put("identity", number, pb.Identity(id=number, labels=[str(number)]).SerializeToString())
    state.put("endpoint", "a/b", pb.Endpoint(namespace="a", name="b", identity=257).SerializeToString())
    assert expired(100.0, 10) == ()
    assert expired(109.0, 10) == ()
    assert expired(110.0, 10) == (256,)
    state.put("endpoint", "a/b", pb.Endpoint(namespace="a", name="b", identity=256).SerializeToString())
    assert expired(111.0, 10) == ()
    state.put("endpoint", "a/b", None)
    assert expired(120.0, 10) == ()
    assert expired(121.5, 10) == (257,)
    unused.forget()
    assert expired(500.0, 10) == ()
    assert expired(500.0, 0) == (256, 257)
