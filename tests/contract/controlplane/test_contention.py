"""Replicas that all append all the time: every command once, and each replica gets its turn."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest

from kilim.controlplane.counters import Counters
from kilim.controlplane.decide.command import ApplyObjects, Command, DeleteObjects, Document, ObjectsChanged, Ref
from kilim.controlplane.decide.view import Defaults
from kilim.controlplane.replica import Replica
from kilim.controlplane.writer import TRIES_MAX, Answer, Writer
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import CHAIN_START, Commit, verify_commit
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.errors import OutcomeUnknown, Unavailable
from kilim.kvstore.head import LogHead, head_after
from kilim.kvstore.keys import Keys
from kilim.kvstore.log import EventLog
from kilim.kvstore.snapshots import SnapshotStore
from kilim.model.nouns import Namespace
from kilim.v1 import events_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="session")

REPLICAS, CLIENTS, COMMANDS = 3, 4, 40
PATIENCE_S = 15.0


@dataclass(frozen=True, slots=True)
class Appender:
    """What of a replica gets commands into the log."""

    log: EventLog
    replica: Replica
    writer: Writer
    counters: Counters

    @property
    def conflicts(self) -> float:
        return self.counters.registry.get_sample_value("kilim_append_conflicts_total") or 0.0


@contextlib.asynccontextmanager
async def appender(endpoints: Sequence[str], cluster: str, *, follows: bool = True) -> AsyncIterator[Appender]:
    client = EtcdClient(endpoints)
    log, replica, counters = EventLog(client, cluster), Replica(Defaults()), Counters()
    writer = Writer(replica, log, counters=counters)
    following = asyncio.create_task(replica.follow(log, SnapshotStore(client, cluster)), name="follow")
    running = asyncio.create_task(writer.run(), name="write")
    await replica.wait_loaded()
    if not follows:
        following.cancel()
    yield Appender(log, replica, writer, counters)
    for task in (running, following):
        task.cancel()
    await asyncio.gather(running, following, return_exceptions=True)
    await client.close()


def namespace(name: str) -> Command:
    return ApplyObjects((Document(Namespace(name)),))


async def write_all(one: Appender, prefix: str) -> None:
    """Each client waits for its answer before it goes on, as ours do."""

    async def client(number: int) -> None:
        for command in range(COMMANDS):
            await one.writer.submit(namespace(f"{prefix}-{number}-{command}"), prefix)

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))


async def read_all(log: EventLog) -> list[Commit]:
    """Dense and with a whole chain (I3)."""
    commits: list[Commit] = []
    seq, chain = 0, CHAIN_START
    async for commit in log.read(1):
        verify_commit(commit, seq + 1, chain)
        commits.append(commit)
        seq, chain = commit.last_seq, commit.chain_after
    return commits


def check_each_command_once(commits: Sequence[Commit], prefixes: Sequence[str]) -> None:
    events = [pb.Event.FromString(record) for commit in commits for record in commit.records]
    wanted = [f"{prefix}-{n}-{k}" for prefix in prefixes for n in range(CLIENTS) for k in range(COMMANDS)]
    assert Counter(event.namespace_labelled.namespace.name for event in events) == Counter(wanted)
    for prefix in prefixes:  # what a client was answered came before what it asked next
        for number in range(CLIENTS):
            mine = [event.namespace_labelled.namespace.name for event in events]
            mine = [name for name in mine if name.startswith(f"{prefix}-{number}-")]
            assert mine == [f"{prefix}-{number}-{k}" for k in range(COMMANDS)]


async def test_replicas_that_contend_take_turns_and_lose_nothing(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        all_ = [await stack.enter_async_context(appender(etcd.endpoints, cluster)) for _ in range(REPLICAS)]
        await asyncio.gather(*(write_all(one, f"r{number}") for number, one in enumerate(all_)))
        commits = await read_all(all_[0].log)
        check_each_command_once(commits, [f"r{number}" for number in range(REPLICAS)])
        assert sum(one.conflicts for one in all_) < len(commits)  # without turns two in three are lost
        made = Counter(head_after(commit).writer for commit in commits)
        assert made.keys() == {one.log.writer for one in all_}
        for one in all_:
            await one.replica.catch_up(one.log, commits[-1].last_seq)
        assert len({one.replica.state.digest for one in all_}) == 1


async def test_one_that_does_not_follow_reads_what_it_lost_to(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with appender(etcd.endpoints, cluster, follows=False) as deaf, appender(etcd.endpoints, cluster) as other:
        await asyncio.gather(write_all(deaf, "deaf"), write_all(other, "other"))
        check_each_command_once(await read_all(other.log), ["deaf", "other"])


async def test_a_head_known_from_a_commit_is_the_one_in_etcd(etcd: EmbeddedEtcd, cluster: str) -> None:
    """Followed, read back and appended alike: the next append may rest on it without a look."""
    async with appender(etcd.endpoints, cluster) as one, appender(etcd.endpoints, cluster) as other:
        for number in range(5):
            answer = await one.writer.submit(namespace(f"n{number}"), "test")
            await other.replica.catch_up(other.log, answer.seq)
            head = await one.log.head()
            assert one.replica.head == other.replica.head == head
            assert [head_after(commit) async for commit in other.log.read(answer.seq)] == [head]
        assert one.conflicts == 0
        await other.writer.submit(namespace("last"), "test")
        assert other.conflicts == 0


async def test_who_comes_after_a_look_at_the_head_is_not_answered_by_it(
    etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with appender(etcd.endpoints, cluster, follows=False) as one, appender(etcd.endpoints, cluster) as other:
        await one.writer.submit(namespace("here"), "test")
        read_head = one.log.head
        late: list[asyncio.Task[Answer]] = []

        async def head_and_meanwhile() -> LogHead:
            head = await read_head()
            if not late:
                await other.writer.submit(namespace("there"), "test")
                remove = DeleteObjects((Ref("Namespace", "", "there"),))
                late.append(asyncio.create_task(one.writer.submit(remove, "test")))
                await asyncio.sleep(0)
            return head

        monkeypatch.setattr(one.log, "head", head_and_meanwhile)
        assert (await one.writer.submit(namespace("here"), "test")).seq == 1  # nothing to do, as of that look
        assert (await late[0]).seq == 3


@pytest.mark.parametrize("busy", [1, 2])
async def test_decisions_that_take_longer_than_others_appends_get_their_turn(
    etcd: EmbeddedEtcd, cluster: str, busy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a word to the others it would lose as long as they go on."""
    async with contextlib.AsyncExitStack() as stack:
        slow, *others = [await stack.enter_async_context(appender(etcd.endpoints, cluster)) for _ in range(1 + busy)]
        append = slow.log.append

        async def append_late(after: LogHead, records: Sequence[bytes], **options: float) -> tuple[Commit, LogHead]:
            await asyncio.sleep(0.15)  # as if it had decided for so long; the loop is shared by all here
            return await append(after, records, **options)

        monkeypatch.setattr(slow.log, "append", append_late)

        async def client(one: Appender, name: str) -> None:
            for number in itertools.count():
                await one.writer.submit(namespace(f"{name}-{number}"), "busy")

        clients = [
            asyncio.create_task(client(one, f"busy-{number}-{each}"), name="client")
            for number, one in enumerate(others)
            for each in range(2)
        ]
        await asyncio.sleep(0.3)
        try:
            for number in range(3):
                async with asyncio.timeout(PATIENCE_S):
                    await slow.writer.submit(namespace(f"slow-{number}"), "slow")
            assert slow.conflicts, "nothing was contended for"
        finally:
            for task in clients:
                task.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
        client_of_etcd = EtcdClient(etcd.endpoints)
        try:
            assert await client_of_etcd.get(Keys(cluster).turn) is None, "it was taken back"
        finally:
            await client_of_etcd.close()


async def test_who_always_loses_is_told_so(etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with appender(etcd.endpoints, cluster) as one, appender(etcd.endpoints, cluster) as other:
        append = one.log.append

        async def append_second(after: LogHead, records: Sequence[bytes], **more: float) -> tuple[Commit, LogHead]:
            await other.log.append(await other.log.head(), [b"sooner"])
            return await append(after, records, **more)

        with monkeypatch.context() as patched:
            patched.setattr(one.log, "append", append_second)
            with pytest.raises(Unavailable, match=f"other replicas were faster {TRIES_MAX} times"):
                async with asyncio.timeout(PATIENCE_S):
                    await one.writer.submit(namespace("late"), "test")
        assert one.conflicts == TRIES_MAX
        await one.writer.submit(namespace("late"), "test")


async def test_the_same_records_of_somebody_else_are_not_our_commit(
    etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with appender(etcd.endpoints, cluster) as one, appender(etcd.endpoints, cluster) as other:

        async def lost(after: LogHead, records: Sequence[bytes], **more: float) -> tuple[Commit, LogHead]:
            await other.log.append(after, records)
            raise OutcomeUnknown("no answer")

        monkeypatch.setattr(one.log, "append", lost)
        answer = await one.writer.submit(namespace("a"), "test")
        assert isinstance(answer.result, ObjectsChanged) and answer.result.results[0].action == "unchanged"
