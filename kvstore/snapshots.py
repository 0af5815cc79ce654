"""Snapshots in etcd: parts first, then the manifest, whose existence is what makes a snapshot.

Easy to get wrong: parts belong to nobody until there is a manifest. Two replicas may write the same ones at once and a
third may sweep them away, so a manifest is put only where every part is still the one that was looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass

import structlog

from kilim.kvstore import transaction
from kilim.kvstore.calls import Repeat
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.errors import SnapshotBroken
from kilim.kvstore.keys import Keys
from kilim.kvstore.keyvalue import KeyValue, prefix_range
from kilim.kvstore.snapshot import (
    SnapshotManifest,
    decode_manifest,
    decode_part,
    encode_manifest,
    encode_part,
    part_digest,
)

__all__ = ["SnapshotManifest", "SnapshotStore"]

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_DISTURBED = "somebody else wrote or deleted parts of it while it was published"

Parts = Iterable[list[bytes]] | AsyncIterable[list[bytes]]


@dataclass(frozen=True, slots=True)
class _PutPart:
    revision: int
    digest: bytes
    bytes: int
    records: int


class SnapshotStore:
    def __init__(self, client: EtcdClient, cluster: str = "default") -> None:
        self._client = client
        self._keys = Keys(cluster)

    async def publish(
        self, seq: int, chain: bytes, state_digest: bytes, time_ns: int, parts: Parts
    ) -> SnapshotManifest:
        """Idempotent, also for two replicas at once; a complete snapshot of that seq is never written again. Raises
        SnapshotBroken where there is one of another state, or where somebody changed the parts meanwhile."""
        there = await self.manifest(seq)
        if there is None:
            put = await self._put_parts(seq, parts)
            if isinstance(put, SnapshotManifest):
                there = put
            else:
                digests = tuple(part.digest for part in put)
                size, records = sum(part.bytes for part in put), sum(part.records for part in put)
                manifest = SnapshotManifest(seq, chain, state_digest, time_ns, digests, size, records)
                there = await self._put_manifest(manifest, [part.revision for part in put])
        if (there.chain, there.state_digest) != (chain, state_digest):
            raise SnapshotBroken(
                seq, f"etcd has one with state digest {there.state_digest.hex()}, ours is {state_digest.hex()}"
            )
        return there

    async def manifest(self, seq: int) -> SnapshotManifest | None:
        found = await self._client.get(self._keys.snapshot(seq))
        return decode_manifest(seq, found.value) if found is not None else None

    async def _put_parts(self, seq: int, parts: Parts) -> list[_PutPart] | SnapshotManifest:
        """A manifest where the snapshot is complete meanwhile, by somebody else: then no part of it was touched."""
        key = self._keys.snapshot(seq)
        put: list[_PutPart] = []
        async for records in _each(parts):
            encoded = encode_part(records)
            result = await self._client.transaction(
                compare=[transaction.mod_revision_is(key, 0)],
                success=[transaction.put(self._keys.part(seq, len(put)), encoded)],
                failure=[transaction.get(key)],
                repeat=Repeat.HARMLESS,
            )
            if not result.succeeded:
                return decode_manifest(seq, result.found[0][0].value)
            put.append(_PutPart(result.revision, part_digest(encoded), len(encoded), len(records)))
        return put

    async def _put_manifest(self, manifest: SnapshotManifest, revisions: list[int]) -> SnapshotManifest:
        """Ours, or the one that somebody else put before us."""
        key = self._keys.snapshot(manifest.seq)
        start, end = prefix_range(self._keys.parts_of(manifest.seq))
        while True:
            found = await self._client.get_range(start, end, keys_only=True)
            await self._check_parts(manifest, revisions, found.kvs)
            result = await self._client.transaction(
                compare=[
                    transaction.mod_revision_is(key, 0),
                    transaction.range_unchanged_since(start, end, found.revision),
                    # Parts are deleted all together, so that the first one tells.
                    *(transaction.mod_revision_is(kv.key, kv.mod_revision) for kv in found.kvs[:1]),
                ],
                success=[
                    transaction.put(key, encode_manifest(manifest)),
                    # What a longer, interrupted publish of the same seq has left.
                    transaction.delete_range(self._keys.part(manifest.seq, len(revisions)), end),
                ],
                failure=[transaction.get(key)],
                repeat=Repeat.HARMLESS,
            )
            if result.succeeded:
                return manifest
            if result.found[0]:
                return decode_manifest(manifest.seq, result.found[0][0].value)

    async def _check_parts(self, manifest: SnapshotManifest, revisions: list[int], found: Sequence[KeyValue]) -> None:
        """Those that are not just as we put them must at least hold the same: another replica publishes them too."""
        present = {kv.key: kv.mod_revision for kv in found}
        for number, revision in enumerate(revisions):
            key = self._keys.part(manifest.seq, number)
            if present.get(key) == revision:
                continue
            kv = await self._client.get(key)
            if kv is None or part_digest(kv.value) != manifest.part_digests[number]:
                raise SnapshotBroken(manifest.seq, _DISTURBED)

    async def manifests(self) -> list[SnapshotManifest]:
        """Of the complete ones, by seq. One that cannot be read is left out, and said to be in the log."""
        readable = []
        for one in await self.examine():
            if isinstance(one, SnapshotManifest):
                readable.append(one)
            else:
                log.error("a snapshot cannot be used", seq=one.seq, reason=one.reason)
        return readable

    async def examine(self) -> list[SnapshotManifest | SnapshotBroken]:
        """As `manifests`, with what is wrong in the place of those that cannot be read."""
        found = await self._client.get_prefix(self._keys.snapshots)
        return [_read_manifest(self._keys, kv) for kv in found.kvs]

    async def read(self, manifest: SnapshotManifest) -> AsyncGenerator[list[bytes], None]:
        """Its records, a part at a time and each one verified, the next part always on its way. Raises
        SnapshotBroken, also where it is deleted meanwhile."""
        pending: asyncio.Task[KeyValue | None] | None = None
        count = len(manifest.part_digests)
        records = 0
        try:
            for number in range(count):
                pending = pending or self._fetch(manifest.seq, number)
                kv, pending = await pending, None
                if kv is None:
                    gone = await self._client.get(self._keys.snapshot(manifest.seq)) is None
                    raise SnapshotBroken(
                        manifest.seq, "it was deleted meanwhile" if gone else f"part {number} is missing"
                    )
                if number + 1 < count:
                    pending = self._fetch(manifest.seq, number + 1)
                held = decode_part(manifest, number, kv.value)
                records += len(held)
                yield held
            if records != manifest.records:
                raise SnapshotBroken(manifest.seq, f"{records} records, its manifest says {manifest.records}")
        finally:
            if pending is not None:
                pending.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await pending

    def _fetch(self, seq: int, number: int) -> asyncio.Task[KeyValue | None]:
        return asyncio.create_task(self._client.get(self._keys.part(seq, number)), name="kvstore snapshot part")

    async def delete(self, seq: int) -> None:
        """Manifest first, then parts. Only deletes, so that it works under a NOSPACE alarm."""
        await self._client.delete(self._keys.snapshot(seq))
        await self._client.delete_range(*prefix_range(self._keys.parts_of(seq)))

    async def sweep(self, keep: Collection[int] = ()) -> int:
        """Deletes parts without a manifest, which an interrupted publish left, except those of the seqs in `keep`.
        Returns how many parts that were. Whoever is publishing them is told so when he puts the manifest."""
        found = await self._client.get_range(*prefix_range(self._keys.snapshot_parts), keys_only=True)
        counts: dict[int, int] = {}
        for kv in found.kvs:
            seq = self._keys.seq_of_part(kv.key)
            counts[seq] = counts.get(seq, 0) + 1
        swept = 0
        for seq, count in counts.items():
            if seq not in keep:
                result = await self._client.transaction(
                    compare=[transaction.mod_revision_is(self._keys.snapshot(seq), 0)],
                    success=[transaction.delete_range(*prefix_range(self._keys.parts_of(seq)))],
                    repeat=Repeat.HARMLESS,
                )
                swept += count if result.succeeded else 0
        return swept


def _read_manifest(keys: Keys, kv: KeyValue) -> SnapshotManifest | SnapshotBroken:
    try:
        return decode_manifest(int(kv.key[len(keys.snapshots) :]), kv.value)
    except SnapshotBroken as broken:
        return broken
    except ValueError:
        return SnapshotBroken(0, f"the key {kv.key.decode(errors='replace')} names no seq")


async def _each(parts: Parts) -> AsyncIterator[list[bytes]]:
    if isinstance(parts, AsyncIterable):
        async for part in parts:
            yield part
    else:
        for part in parts:
            yield part
