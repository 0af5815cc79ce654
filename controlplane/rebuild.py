"""A state out of the newest good snapshot in etcd, for a replica that starts or that the log was trimmed away from.

A snapshot will do where its digests agree and the log goes on from it; else it is said to be broken, and the one before
it is tried. Easy to get wrong: the log may be trimmed while this reads; whoever follows on then gets Trimmed again.
"""

import asyncio
import contextlib
from dataclasses import dataclass

import structlog

from kilim.controlplane.proof import claim_of, why_not_of_log
from kilim.kvstore.errors import LogBroken, SnapshotBroken
from kilim.kvstore.log import EventLog
from kilim.kvstore.snapshots import SnapshotManifest, SnapshotStore
from kilim.model.snapshot import decode_records
from kilim.model.state import State

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The state after the last event of `manifest`; nobody else has it yet."""

    state: State
    manifest: SnapshotManifest


async def rebuild_state(log: EventLog, snapshots: SnapshotStore, after_seq: int) -> Rebuilt | None:
    """None: none is newer than `after_seq`, and the log is held from there on. Raises LogBroken where it is not."""
    start = await log.start()
    for manifest in reversed(await snapshots.manifests()):
        if manifest.seq <= after_seq or manifest.seq < start.first_seq - 1:
            break
        try:
            if reason := await why_not_of_log(log, await log.span(), claim_of(manifest)):
                raise SnapshotBroken(manifest.seq, reason)
            return Rebuilt(await _read_state(snapshots, manifest), manifest)
        except SnapshotBroken as error:
            _logger.error("snapshot cannot be used, trying the one before", seq=manifest.seq, reason=error.reason)
    if after_seq + 1 < start.first_seq:
        raise LogBroken(
            after_seq + 1, f"trimmed up to {start.first_seq - 1}, and no good snapshot is there to go on from"
        )
    return None


async def _read_state(snapshots: SnapshotStore, manifest: SnapshotManifest) -> State:
    state = State()
    async with contextlib.aclosing(snapshots.read(manifest)) as parts:
        async for records in parts:
            state.load(decode_records(records), manifest.seq)
            await asyncio.sleep(0)
    state.seq = manifest.seq
    if state.digest != manifest.state_digest:
        raise SnapshotBroken(
            manifest.seq, f"gives state digest {state.digest.hex()}, its manifest says {manifest.state_digest.hex()}"
        )
    return state
