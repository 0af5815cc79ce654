"""Segments back into etcd: the same bytes and chain, into nothing else than an empty prefix, whole or not at all."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import Commit
from kilim.kvstore.errors import BeingRestored, CannotRestore, LogBroken, NotEmpty
from kilim.kvstore.keys import Keys
from kilim.kvstore.log import EventLog
from kilim.kvstore.restore import restore
from kilim.kvstore.segments import SegmentDirectory, write_segments, write_snapshot
from kilim.kvstore.snapshots import SnapshotStore

pytestmark = pytest.mark.asyncio(loop_scope="session")

PARTS = [[b"a", b"b" * 1000], [b"c"]]


class _Killed(Exception):
    pass


class _Original:
    """A log with snapshots, exported."""

    def __init__(self, client: EtcdClient, cluster: str, directory: Path) -> None:
        self.client, self.cluster, self.directory = client, cluster, directory
        self.log, self.store = EventLog(client, cluster), SnapshotStore(client, cluster)

    async def make(self, sizes: list[int], snapshots: tuple[int, ...] = ()) -> list[Commit]:
        head = await self.log.head()
        commits = []
        for number, size in enumerate(sizes):
            commit, head = await self.log.append(head, [b"%d-%d" % (number, n) + bytes(300) for n in range(size)])
            commits.append(commit)
            if number in snapshots:
                await self.store.publish(commit.last_seq, commit.chain_after, bytes(32), 7, PARTS)
        return commits

    async def export(self) -> SegmentDirectory:
        start = await self.log.start()
        commits = [commit async for commit in self.log.read(start.first_seq)]
        list(write_segments(self.directory, commits, 20_000))
        for manifest in await self.store.manifests():
            write_snapshot(self.directory, manifest, [part async for part in self.store.read(manifest)])
        return SegmentDirectory([self.directory])

    async def dump(self, cluster: str) -> dict[bytes, bytes]:
        """What is below a cluster's prefix, but for the append id in its head."""
        prefix = Keys(cluster).prefix
        found = await self.client.get_prefix(prefix)
        return {kv.key[len(prefix) :]: kv.value for kv in found.kvs if not kv.key.endswith(b"/head")}


@pytest.fixture
def original(client: EtcdClient, cluster: str, tmp_path: Path) -> _Original:
    return _Original(client, cluster, tmp_path)


async def test_the_same_bytes_and_chain(original: _Original, client: EtcdClient) -> None:
    await original.make([1, 40, 3] * 100, snapshots=(100, 200, 250))
    segments = await original.export()
    target = original.cluster + "-copy"
    seen: list[int] = []
    head = await restore(client, target, segments, seen.append)
    there = await original.log.head()
    assert (head.next_seq, head.chain) == (there.next_seq, there.chain)
    assert seen == sorted(seen) and seen[-1] == head.last_seq
    assert head == await EventLog(client, target).head()
    await original.store.delete((await original.store.manifests())[0].seq)
    assert await original.dump(target) == await original.dump(original.cluster)
    _, after = await EventLog(client, target).append(head, [b"goes on"])
    assert after.next_seq == head.next_seq + 1


async def test_a_log_that_begins_later(original: _Original, client: EtcdClient) -> None:
    commits = await original.make([5] * 60, snapshots=(10, 29, 40))
    await original.log.trim(commits[30].first_seq)
    segments = await original.export()
    target = original.cluster + "-copy"
    await restore(client, target, segments)
    restored, store = EventLog(client, target), SnapshotStore(client, target)
    assert await restored.span() == await original.log.span()
    assert [commit async for commit in restored.read(151)] == commits[30:]
    assert [one.seq for one in await store.manifests()] == [commits[29].last_seq, commits[40].last_seq]
    assert [part async for part in store.read((await store.manifests())[0])] == PARTS


async def test_no_beginning(original: _Original, client: EtcdClient) -> None:
    commits = await original.make([5] * 20, snapshots=(8,))
    await original.log.trim(commits[10].first_seq)
    target = original.cluster + "-copy"
    with pytest.raises(CannotRestore, match="begin at seq 51, and no whole snapshot of seq 50 or later"):
        await restore(client, target, await original.export())
    assert (await client.get_prefix(Keys(target).prefix)).kvs == ()


async def test_a_broken_snapshot_is_passed_over(original: _Original, client: EtcdClient) -> None:
    commits = await original.make([5] * 20, snapshots=(9, 12))
    await original.log.trim(commits[10].first_seq)
    segments = await original.export()
    newest = segments.snapshot_path(segments.snapshots()[-1])
    whole = newest.read_bytes()
    newest.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    target = original.cluster + "-copy"
    await restore(client, target, segments)
    assert [one.seq for one in await SnapshotStore(client, target).manifests()] == [50]
    assert await SnapshotStore(client, target).sweep() == 0


async def test_only_a_snapshot(original: _Original, client: EtcdClient) -> None:
    commits = await original.make([5, 5], snapshots=(1,))
    segments = await original.export()
    for path in original.directory.glob("*.segment"):
        path.unlink()
    target = original.cluster + "-copy"
    head = await restore(client, target, SegmentDirectory([original.directory]))
    assert (head.next_seq, head.chain) == (11, commits[1].chain_after)
    restored = EventLog(client, target)
    assert [commit async for commit in restored.read(11)] == []
    commit, _ = await restored.append(head, [b"goes on"])
    assert [commit async for commit in restored.read(11)] == [commit]
    assert segments.span().last_seq == 10


async def test_only_into_nothing(original: _Original, client: EtcdClient) -> None:
    await original.make([5, 5])
    segments = await original.export()
    before = await original.dump(original.cluster)
    with pytest.raises(NotEmpty, match="a log already, up to event 10"):
        await restore(client, original.cluster, segments)
    assert await original.dump(original.cluster) == before
    target = original.cluster + "-copy"
    await client.put(Keys(target).member("replica1"), b"here")
    with pytest.raises(NotEmpty, match="member/replica1 is there: somebody runs on it"):
        await restore(client, target, segments)
    await client.delete(Keys(target).member("replica1"))
    await client.put(Keys(target).reserve + b"0", bytes(1000))
    await restore(client, target, segments)
    assert (await EventLog(client, target).head()).next_seq == 11


async def test_an_interrupted_one_is_no_log_and_is_begun_again(original: _Original, client: EtcdClient) -> None:
    await original.make([1, 40, 3] * 100, snapshots=(100, 200))
    segments = await original.export()
    target = original.cluster + "-copy"

    def die(seq: int) -> None:
        if seq > 3000:
            raise _Killed

    with pytest.raises(_Killed):
        await restore(client, target, segments, die)
    half = EventLog(client, target)
    for reading in (half.head(), half.start(), anext(half.read(1)), half.trim(5)):
        with pytest.raises(BeingRestored, match="has not ended"):
            await reading
    following = asyncio.create_task(anext(half.follow(1, bytes(32))))  # type: ignore[arg-type]
    await client.put(Keys(target).commit(2), b"left by the first try, and in no segment")
    head = await restore(client, target, segments)
    assert head.next_seq == (await original.log.head()).next_seq
    assert await original.dump(target) == await original.dump(original.cluster)
    assert (await following).first_seq == 1


async def test_two_restores_at_once(original: _Original, client: EtcdClient) -> None:
    """One of them ends well; the other is told."""
    await original.make([1, 40, 3] * 100)
    segments = await original.export()
    target = original.cluster + "-copy"
    ends = await asyncio.gather(*(restore(client, target, segments) for _ in range(2)), return_exceptions=True)
    assert [type(end) for end in ends if isinstance(end, BaseException)] == [NotEmpty]
    assert await original.dump(target) == await original.dump(original.cluster)


async def test_segments_that_are_broken_give_no_log(original: _Original, client: EtcdClient) -> None:
    await original.make([1, 40, 3] * 100)
    segments = await original.export()
    path = segments.segments[2].path
    whole = path.read_bytes()
    path.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    target = original.cluster + "-copy"
    with pytest.raises(LogBroken, match=str(path)):
        await restore(client, target, segments)
    with pytest.raises(BeingRestored):
        await EventLog(client, target).head()
    path.write_bytes(whole)
    await restore(client, target, segments)
