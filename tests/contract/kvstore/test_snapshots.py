"""Snapshots in etcd: there when the manifest is, and found out where a part is not what it should be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.errors import SnapshotBroken
from kilim.kvstore.keys import Keys
from kilim.kvstore.keyvalue import prefix_range
from kilim.kvstore.snapshot import SnapshotManifest, encode_manifest
from kilim.kvstore.snapshots import SnapshotStore

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAIN, DIGEST = bytes([1]) * 32, bytes([2]) * 32
PARTS = [[b"a", b"b" * 1000], [b"", b"c"], [b"d" * 400_000]]


class Killed(Exception):
    pass


@pytest.fixture
def store(client: EtcdClient, cluster: str) -> SnapshotStore:
    return SnapshotStore(client, cluster)


async def _publish(store: SnapshotStore, seq: int, parts: list[list[bytes]] = PARTS) -> SnapshotManifest:
    return await store.publish(seq, CHAIN, DIGEST, 5, parts)


async def _read(store: SnapshotStore, manifest: SnapshotManifest) -> list[list[bytes]]:
    return [part async for part in store.read(manifest)]


async def _keys_left(client: EtcdClient, cluster: str) -> int:
    return len((await client.get_prefix(Keys(cluster).prefix + b"snapshot")).kvs)


async def test_what_was_published_is_read(store: SnapshotStore) -> None:
    assert await store.manifests() == []
    later, earlier = await _publish(store, 100), await _publish(store, 9)
    assert (later.seq, later.records, len(later.part_digests)) == (100, 5, 3)
    assert await store.manifests() == [earlier, later]
    assert await store.manifest(100) == later
    assert await _read(store, later) == PARTS


async def test_an_empty_state(store: SnapshotStore) -> None:
    manifest = await _publish(store, 3, [])
    assert await _read(store, manifest) == []
    assert await store.manifests() == [manifest]


async def test_parts_may_come_as_they_are_made(store: SnapshotStore) -> None:
    async def made() -> AsyncIterator[list[bytes]]:
        for part in PARTS:
            yield part

    manifest = await store.publish(3, CHAIN, DIGEST, 5, made())
    assert await _read(store, manifest) == PARTS


async def test_publishing_again_changes_nothing(client: EtcdClient, cluster: str, store: SnapshotStore) -> None:
    first = await _publish(store, 3)
    before = await client.get_prefix(Keys(cluster).prefix)
    assert await _publish(store, 3, [[b"split in another way"]]) == first
    after = await client.get_prefix(Keys(cluster).prefix)
    assert after.kvs == before.kvs
    with pytest.raises(SnapshotBroken, match="etcd has one with state digest 0202.*, ours is 0303"):
        await store.publish(3, CHAIN, bytes([3]) * 32, 5, PARTS)


@pytest.mark.parametrize("survived", range(4))
async def test_an_interrupted_publish_is_invisible_and_swept(
    client: EtcdClient, cluster: str, store: SnapshotStore, survived: int
) -> None:
    def cut() -> Iterator[list[bytes]]:
        yield from PARTS[:survived]
        raise Killed

    complete = await _publish(store, 3)
    with pytest.raises(Killed):
        await store.publish(7, CHAIN, DIGEST, 5, cut())
    assert await store.manifests() == [complete]
    assert await store.sweep(keep=[7]) == 0
    assert await store.sweep() == survived
    assert await _keys_left(client, cluster) == 4
    assert await _read(store, complete) == PARTS


async def test_an_interrupted_publish_is_taken_up_with_fewer_parts(
    client: EtcdClient, cluster: str, store: SnapshotStore
) -> None:
    def cut() -> Iterator[list[bytes]]:
        yield from [[b"old"]] * 5
        raise Killed

    with pytest.raises(Killed):
        await store.publish(7, CHAIN, DIGEST, 5, cut())
    manifest = await _publish(store, 7)
    assert await _read(store, manifest) == PARTS
    assert await _keys_left(client, cluster) == 4
    assert await store.sweep() == 0


async def test_many_publish_the_same_at_once(client: EtcdClient, cluster: str, store: SnapshotStore) -> None:
    stores = [SnapshotStore(client, cluster) for _ in range(5)]
    manifests = await asyncio.gather(*(_publish(one, 7) for one in stores))
    assert len(set(manifests)) == 1
    assert await store.manifests() == [manifests[0]]
    assert await _read(store, manifests[0]) == PARTS


async def test_parts_that_are_swept_while_they_are_written_make_no_snapshot(
    client: EtcdClient, cluster: str, store: SnapshotStore
) -> None:
    other = SnapshotStore(client, cluster)
    for when in range(1, 4):

        async def made(when: int = when) -> AsyncIterator[list[bytes]]:
            for number, part in enumerate([*PARTS, [b"last"]]):
                if number == when:
                    await other.sweep()
                yield part

        with pytest.raises(SnapshotBroken, match="while it was published"):
            await store.publish(7, CHAIN, DIGEST, 5, made())
        assert await store.manifests() == []
    assert (await _publish(store, 7)).seq == 7


async def test_parts_that_another_overwrites_make_no_snapshot(
    client: EtcdClient, cluster: str, store: SnapshotStore
) -> None:
    async def made(value: bytes) -> AsyncIterator[list[bytes]]:
        yield PARTS[0]
        yield PARTS[1]
        await client.put(Keys(cluster).part(7, 0), value)
        yield PARTS[2]

    with pytest.raises(SnapshotBroken, match="while it was published"):
        await store.publish(7, CHAIN, DIGEST, 5, made(b"foreign"))
    same = await _publish(store, 8)
    whole = await client.get(Keys(cluster).part(same.seq, 0))
    assert whole is not None
    assert await _read(store, await store.publish(7, CHAIN, DIGEST, 5, made(whole.value))) == PARTS


async def test_a_broken_part_is_found(client: EtcdClient, cluster: str, store: SnapshotStore) -> None:
    manifest = await _publish(store, 7)
    key = Keys(cluster).part(7, 1)
    part = await client.get(key)
    assert part is not None
    await client.put(key, part.value[:-1] + bytes([part.value[-1] ^ 4]))
    with pytest.raises(SnapshotBroken, match="part 1 has digest"):
        await _read(store, manifest)
    await client.delete(key)
    with pytest.raises(SnapshotBroken, match="part 1 is missing"):
        await _read(store, manifest)


async def test_a_snapshot_that_goes_while_it_is_read(store: SnapshotStore) -> None:
    manifest = await _publish(store, 7)
    reading = store.read(manifest)
    assert await anext(reading) == PARTS[0]
    await store.delete(7)
    with pytest.raises(SnapshotBroken, match="it was deleted meanwhile"):
        async for _ in reading:
            pass


async def test_a_manifest_that_is_none_is_left_out(client: EtcdClient, cluster: str, store: SnapshotStore) -> None:
    keys, good = Keys(cluster), await _publish(store, 7)
    await client.put(keys.snapshot(8), b"\xff")
    await client.put(keys.snapshot(9), encode_manifest(good))
    await client.put(keys.snapshots + b"latest", b"")
    assert await store.manifests() == [good]
    broken = [str(one) for one in await store.examine() if isinstance(one, SnapshotBroken)]
    assert len(broken) == 3 and "its manifest is that of seq 7" in broken[1]


async def test_deleting_leaves_nothing(client: EtcdClient, cluster: str, store: SnapshotStore) -> None:
    await _publish(store, 7)
    kept = await _publish(store, 8)
    await store.delete(7)
    await store.delete(7)
    assert await store.manifests() == [kept]
    start, end = prefix_range(Keys(cluster).snapshot_parts)
    assert (await client.get_range(start, end)).count == 3
