"""A state out of the newest good snapshot in etcd, for a replica that starts or that the log was trimmed away from.

A snapshot will do where its digests agree and the log goes on from it; else it is said to be broken, and the one before
it is tried. Easy to get wrong: the log may be trimmed while this reads; whoever follows on then gets Trimmed again.
"""

import asyncio
from dataclasses import dataclass

import structlog

from kilim.controlplane.proof import claim_of, read_state, why_not_of_log
from kilim.kvstore.errors import LogBroken, SnapshotBroken
from kilim.kvstore.log import EventLog
from kilim.kvstore.snapshots import SnapshotManifest, SnapshotStore
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
            return Rebuilt(await read_state(snapshots, manifest, _give_way), manifest)
        except SnapshotBroken as error:
            _logger.error("snapshot cannot be used, trying the one before", seq=manifest.seq, reason=error.reason)
    if after_seq + 1 < start.first_seq:
        raise LogBroken(
            after_seq + 1, f"trimmed up to {start.first_seq - 1}, and no good snapshot is there to go on from"
        )
    return None


async def _give_way() -> None:
    """No rest: until this is done the process has nothing better to do, only its calls to answer."""
    await asyncio.sleep(0)
