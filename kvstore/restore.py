"""An exported log back into an empty etcd: the same bytes under the same keys, so the same chain.

Easy to get wrong: what is half restored must not pass for a log. So a head that nobody can read is written first, and
the real one last, with it the start; a restore that was interrupted is simply begun again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import structlog

from kilim.kvstore import transaction
from kilim.kvstore.calls import Repeat
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import Commit
from kilim.kvstore.errors import CannotRestore, NotEmpty, SnapshotBroken
from kilim.kvstore.head import RESTORING, LogHead, decode_head, encode_head, is_restoring
from kilim.kvstore.keys import Keys
from kilim.kvstore.keyvalue import prefix_range
from kilim.kvstore.landmarks import Landmark, Landmarks
from kilim.kvstore.segments import SegmentDirectory
from kilim.kvstore.snapshot import SnapshotManifest, encode_manifest, encode_part
from kilim.kvstore.span import Span
from kilim.kvstore.start import encode_start

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_BATCH_BYTES = 1 << 20
_BATCH_KEYS = 100
_DELETE_KEYS = 10_000
# The newest one, and the one to fall back on.
_SNAPSHOTS = 2
_NO_BEGINNING = "the segments begin at seq {}, and no whole snapshot of seq {} or later is beside them"


async def restore(
    client: EtcdClient,
    cluster: str,
    segments: SegmentDirectory,
    progress: Callable[[int], None] = lambda seq: None,
) -> LogHead:
    """Raises NotEmpty unless there is nothing but what an interrupted restore left; LogBroken, SnapshotBroken and
    CannotRestore for the files. Nobody may run on this etcd meanwhile: he would find that the log cannot be read."""
    span = segments.span()
    if span.first_seq > 1 and not _fitting(segments, span):
        raise CannotRestore(_NO_BEGINNING.format(span.first_seq, span.first_seq - 1))
    keys = Keys(cluster)
    restoring = await _claim(client, keys)
    snapshots = await _put_snapshots(client, keys, restoring, segments, span)
    walk = Landmarks(Landmark(one.seq, one.chain, str(segments.snapshot_path(one))) for one in snapshots)
    for batch in _batches(segments.commits(span.first_seq)):
        for commit in batch:
            walk.check(commit)
        puts = [transaction.put(keys.commit(commit.first_seq), commit.encoded) for commit in batch]
        await _guarded(client, keys, restoring, puts)
        progress(batch[-1].last_seq)
    return await _finish(client, keys, restoring, span)


def _fitting(segments: SegmentDirectory, span: Span) -> list[SnapshotManifest]:
    """Those that the segments go on from."""
    return [one for one in segments.snapshots() if span.first_seq - 1 <= one.seq <= span.last_seq]


async def _claim(client: EtcdClient, keys: Keys) -> int:
    """The mod revision of a head that says that a restore is going on; ours from now on, and nothing else is there."""
    start, end = prefix_range(keys.prefix)
    found = await client.get_range(start, end, limit=1000, keys_only=True)
    head = await client.get(keys.head)
    if head is not None and not is_restoring(head.value):
        last = decode_head(head.value, head.mod_revision).last_seq
        raise NotEmpty(f"there is a log already, up to event {last}: a restore is into an empty etcd")
    # The reserve of a control plane that was there before us is no fact.
    foreign = [kv.key for kv in found.kvs if not kv.key.startswith(keys.reserve)]
    if head is None and foreign:
        what = "somebody runs on it" if foreign[0].startswith(keys.members) else "a restore is into an empty etcd"
        raise NotEmpty(f"the key {foreign[0].decode(errors='replace')} is there: {what}")
    result = await client.transaction(
        compare=[transaction.mod_revision_is(keys.head, head.mod_revision if head else 0)],
        success=[transaction.put(keys.head, RESTORING)],
        failure=[transaction.get(keys.head)],
        repeat=Repeat.HARMLESS,
    )
    if not result.succeeded and not (result.repeated and result.found[0] and is_restoring(result.found[0][0].value)):
        raise NotEmpty("somebody else began to write to this etcd at the same time")
    restoring = result.revision if result.succeeded else result.found[0][0].mod_revision
    await _empty(client, keys, restoring)
    return restoring


async def _empty(client: EtcdClient, keys: Keys, restoring: int) -> None:
    """Of what an interrupted restore has put."""
    for prefix in (keys.log, keys.snapshots, keys.snapshot_parts):
        start, end = prefix_range(prefix)
        while True:
            found = await client.get_range(start, end, limit=_DELETE_KEYS, keys_only=True)
            if not found.kvs:
                break
            upto = found.kvs[-1].key + b"\0"
            await _guarded(client, keys, restoring, [transaction.delete_range(start, upto)])


async def _put_snapshots(
    client: EtcdClient, keys: Keys, restoring: int, segments: SegmentDirectory, span: Span
) -> list[SnapshotManifest]:
    """The newest two that are whole. Raises CannotRestore where a log that begins later would have no beginning."""
    put: list[SnapshotManifest] = []
    for manifest in reversed(_fitting(segments, span)):
        try:
            await _put_snapshot(client, keys, restoring, segments, manifest)
        except SnapshotBroken as broken:
            log.warning("a snapshot is not restored", seq=broken.seq, reason=broken.reason)
            parts = prefix_range(keys.parts_of(manifest.seq))
            await _guarded(client, keys, restoring, [transaction.delete_range(*parts)])
        else:
            put.append(manifest)
        if len(put) == _SNAPSHOTS:
            break
    if span.first_seq > 1 and not put:
        raise CannotRestore(_NO_BEGINNING.format(span.first_seq, span.first_seq - 1))
    return put


async def _put_snapshot(
    client: EtcdClient, keys: Keys, restoring: int, segments: SegmentDirectory, manifest: SnapshotManifest
) -> None:
    for number, records in enumerate(segments.read_snapshot(manifest)):
        put = transaction.put(keys.part(manifest.seq, number), encode_part(records))
        await _guarded(client, keys, restoring, [put])
    await _guarded(client, keys, restoring, [transaction.put(keys.snapshot(manifest.seq), encode_manifest(manifest))])


def _batches(commits: Iterator[Commit]) -> Iterator[list[Commit]]:
    """As many as go into one transaction."""
    batch: list[Commit] = []
    size = 0
    for commit in commits:
        if batch and (len(batch) >= _BATCH_KEYS or size + len(commit.encoded) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(commit)
        size += len(commit.encoded)
    if batch:
        yield batch


async def _guarded(client: EtcdClient, keys: Keys, restoring: int, writes: list[transaction.Operation]) -> None:
    """Raises NotEmpty where the head is not our claim any more. A repeated put puts the same."""
    result = await client.transaction(
        compare=[transaction.mod_revision_is(keys.head, restoring)], success=writes, repeat=Repeat.HARMLESS
    )
    if not result.succeeded:
        raise NotEmpty("another restore was begun into this etcd, or somebody else wrote to it")


async def _finish(client: EtcdClient, keys: Keys, restoring: int, span: Span) -> LogHead:
    head = LogHead(span.last_seq + 1, span.chain, 0, "")
    writes = [transaction.put(keys.head, encode_head(head))]
    if span.first_seq > 1:
        writes.append(transaction.put(keys.start, encode_start(span.first_seq, span.chain_before)))
    result = await client.transaction(
        compare=[transaction.mod_revision_is(keys.head, restoring)],
        success=writes,
        failure=[transaction.get(keys.head)],
        repeat=Repeat.HARMLESS,
    )
    if result.succeeded:
        return LogHead(head.next_seq, head.chain, result.revision, "")
    found = result.found[0]
    if result.repeated and found and not is_restoring(found[0].value):
        present = decode_head(found[0].value, found[0].mod_revision)
        if (present.next_seq, present.chain) == (head.next_seq, head.chain):
            return present
    raise NotEmpty("another restore was begun into this etcd, or somebody else wrote to it")
