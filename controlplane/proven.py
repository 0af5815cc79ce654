"""The snapshots in etcd that may be relied on, and what is said of the others.

A snapshot that the log does not have (it ends before it) is named and left where it is: it may be all that is left of a
log that was lost. Easy to get wrong: one that the log contradicts goes, on the log's word alone, whoever is in doubt.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import structlog

from kilim.controlplane.proof import Claim, Proofs, claim_of, why_not_of_log
from kilim.kvstore.errors import KvError, SnapshotBroken
from kilim.kvstore.log import EventLog
from kilim.kvstore.snapshots import SnapshotManifest, SnapshotStore
from kilim.model.digest import digest_of
from kilim.model.snapshot import hash_records

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

# A snapshot that went because it was wrong is named as long.
NAMED_S = 600.0


class ProvenSnapshots:
    """`manifests` are of the last look: of this log, by their chain; proven by `prove`. `strange`: why not, by seq."""

    def __init__(self, log: EventLog, store: SnapshotStore) -> None:
        self.manifests: list[SnapshotManifest] = []
        self.strange: dict[int, str] = {}
        self._log = log
        self._store = store
        self._proofs = Proofs(log, store)
        self._of_log: set[SnapshotManifest] = set()
        self._unfit: list[SnapshotManifest] = []
        self._read_back: set[SnapshotManifest] = set()
        self._removed: dict[int, tuple[str, float]] = {}

    def problems(self) -> list[str]:
        """One line each."""
        since_s = time.monotonic() - NAMED_S
        removed = [
            (seq, f"{reason}; it was removed") for seq, (reason, at_s) in self._removed.items() if at_s > since_s
        ]
        return [
            f"snapshot at event {seq} is not of this log: {reason}" for seq, reason in [*self.strange.items(), *removed]
        ]

    async def look(self) -> None:
        """What is held now. The head is read last: no snapshot is ever ahead of it."""
        examined = await self._store.examine()
        span = await self._log.span()
        strange: dict[int, str] = {}
        fit: list[SnapshotManifest] = []
        self._unfit = []
        for one in examined:
            if isinstance(one, SnapshotBroken):
                strange[one.seq] = one.reason
            elif one.seq < span.first_seq - 1 or (one in self._of_log and one.seq <= span.last_seq):
                fit.append(one)
            elif reason := await why_not_of_log(self._log, span, claim_of(one)):
                strange[one.seq] = reason
                self._unfit.append(one)
            else:
                fit.append(one)
        for seq, reason in strange.items():
            if self.strange.get(seq) != reason:
                _logger.error("snapshot is not of this log and is not used", seq=seq, reason=reason)
        self.manifests, self.strange, self._of_log = fit, strange, set(fit)

    async def prove(self, *claims: Claim) -> dict[Claim, str]:
        """Each snapshot, and these claims, against the log; snapshots that are wrong go. Why a claim is wrong."""
        stored = [*self.manifests, *self._unfit]
        wrong = await self._proofs.disprove([*map(claim_of, stored), *claims], self.manifests)
        span = await self._log.span()
        for manifest in stored:
            if claim_of(manifest) in wrong and manifest.seq <= span.last_seq:
                await self._remove(manifest.seq, wrong[claim_of(manifest)])
        for seq in set(self.strange) - {one.seq for one in self._unfit}:
            await self._remove(seq, self.strange[seq])  # nobody can read its manifest
        self.manifests = [one for one in self.manifests if claim_of(one) not in wrong]
        return {claim: wrong[claim] for claim in claims if claim in wrong}

    async def check_chain(self, claim: Claim) -> None:
        """Raises NotFromLog where it is of another log."""
        if reason := await why_not_of_log(self._log, await self._log.span(), claim):
            raise NotFromLog(claim.seq, reason)

    async def _remove(self, seq: int, reason: str) -> None:
        _logger.error("snapshot is not what the log gives and was removed", seq=seq, reason=reason)
        await self._store.delete(seq)
        self._removed[seq] = reason, time.monotonic()
        self.strange.pop(seq, None)

    async def is_good(self, manifest: SnapshotManifest) -> bool:
        """Read once more; it goes where it is not."""
        self._read_back.discard(manifest)
        try:
            await self.check(manifest)
        except SnapshotBroken as error:
            _logger.error("snapshot is broken and was deleted", seq=error.seq, reason=error.reason)
            return False
        return True

    async def check(self, manifest: SnapshotManifest) -> None:
        """Once each: as it is in etcd it gives the state that it claims; else it goes."""
        if manifest in self._read_back:
            return
        try:
            async with contextlib.aclosing(self._store.read(manifest)) as parts:
                digest = await digest_parts(parts)
            if digest != manifest.state_digest:
                raise SnapshotBroken(manifest.seq, f"read back it has digest {digest.hex()}")
        except SnapshotBroken:
            await self._store.delete(manifest.seq)
            raise
        self._read_back = {one for one in self._read_back if one in self.manifests} | {manifest}

    async def delete(self, seqs: tuple[int, ...]) -> None:
        for seq in seqs:
            await self._store.delete(seq)
        self.manifests = [manifest for manifest in self.manifests if manifest.seq not in seqs]


class NotFromLog(KvError):
    """The state of this replica is not what the log gives."""

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(f"state of this replica at event {seq} is not what the log gives: {reason}; start it again")


async def digest_parts(parts: AsyncIterator[list[bytes]]) -> bytes:
    """The state digest of a snapshot's records."""
    total = 0
    async for records in parts:
        total += await asyncio.to_thread(hash_records, records)
    return digest_of(total)
