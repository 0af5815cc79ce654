"""One copy of the state that follows the log, with the commits to pass on.

Easy to get wrong: commits come from three sides (the follower, the writer's own appends, the writer catching up), so
`apply` takes any of them any number of times and folds each exactly once, in order (I3). And `state` and `view` are
other objects after the log was trimmed away from this replica: never keep them over an await.
"""

import asyncio
import contextlib
from collections.abc import Callable

import structlog
from google.protobuf.message import DecodeError

from kilim.controlplane.decide.view import Defaults, View
from kilim.controlplane.history import History
from kilim.controlplane.rebuild import rebuild_state
from kilim.kvstore.commit import Commit, verify_commit
from kilim.kvstore.errors import KvError, LogBroken, Trimmed, Unavailable
from kilim.kvstore.head import LogHead, head_after
from kilim.kvstore.log import EventLog
from kilim.kvstore.snapshots import SnapshotStore
from kilim.model.state import State
from kilim.v1 import events_pb2 as pb

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RETRY_S = 1.0
BROKEN_RETRY_S = 5.0
FOLLOWER_S = 0.1
_FOLD_AT_ONCE = 256


class Replica:
    """State, look-ups and history at one sequence number."""

    def __init__(self, defaults: Defaults, history: History | None = None) -> None:
        self.state = State()
        self.view = View(self.state, defaults)
        self.history = history or History()
        self.loaded = False  # has read the log up to what was its head when etcd was first reached
        self.broken = ""  # why the log cannot be followed, when it cannot
        self.on_applied: list[Callable[[], None]] = []
        self.head: LogHead | None = None  # that the last commit made; None: it did not come from etcd
        self._defaults = defaults
        self._restart_time_ns = 0

    @property
    def time_ns(self) -> int:
        """When the last event happened, by the clock of who wrote it; 0 where there is none."""
        commit = self.history.commit_with(self.seq)
        return event_time_ns(commit.records[-1]) if commit is not None else self._restart_time_ns

    @property
    def seq(self) -> int:
        return self.history.seq

    @property
    def chain(self) -> bytes:
        return self.history.chain

    async def wait_loaded(self) -> None:
        while not self.loaded:
            await self.history.wait(self.seq)

    def apply(self, commit: Commit) -> None:
        """Verify and fold. Raises LogBroken for what does not follow from the state that we have."""
        if commit.last_seq <= self.seq:
            known = self.history.chain_at(commit.last_seq)
            if known is not None and known != commit.chain_after:
                raise LogBroken(commit.first_seq, f"chain {commit.chain_after.hex()}, was {known.hex()} before")
            return
        verify_commit(commit, self.seq + 1, self.chain)
        digests = []
        for number, record in enumerate(commit.records):
            self.view.fold(commit.first_seq + number, record)
            digests.append(self.state.digest)
        self.history.add(commit, digests)
        self.head = head_after(commit) if commit.revision else None
        for observer in self.on_applied:
            observer()

    async def catch_up(self, log: EventLog, last_seq: int) -> None:
        """Apply up to `last_seq`; what the follower does not bring soon is read. Raises Unavailable where only a
        snapshot helps, which `follow` reads."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FOLLOWER_S):
                while self.seq < last_seq:
                    await self.history.wait(self.seq)
        if self.seq < last_seq:
            try:
                async for commit in log.read(self.seq + 1, last_seq):
                    self.apply(commit)
            except Trimmed as error:
                raise Unavailable(f"this replica is behind what the log holds and reads a snapshot: {error}") from error

    async def follow(self, log: EventLog, snapshots: SnapshotStore) -> None:
        """For ever. Where the log is broken it says so and looks again later; what is in memory is served on."""
        from_snapshot = True
        while True:
            try:
                if from_snapshot:
                    await self._restart(log, snapshots)
                    from_snapshot = False
                if not self.loaded:
                    await self._load(log)
                await self._follow(log)
            except Trimmed as error:
                _logger.warning("log was trimmed away from this replica", seq=self.seq, first_seq=error.first_seq)
                from_snapshot = True
            except LogBroken as error:
                self.broken = str(error)
                _logger.error("log is broken, following stops", seq=error.seq, reason=error.reason)
                await asyncio.sleep(BROKEN_RETRY_S)
            except KvError as error:
                _logger.warning("log cannot be followed", error=str(error), seq=self.seq)
                await asyncio.sleep(RETRY_S)

    async def _restart(self, log: EventLog, snapshots: SnapshotStore) -> None:
        """From the newest good snapshot, where one is newer than what we have; until then the old state is served."""
        rebuilt = await rebuild_state(log, snapshots, self.seq)
        if rebuilt is None:
            return
        state, manifest = rebuilt.state, rebuilt.manifest
        view = await asyncio.to_thread(View, state, self._defaults)
        if manifest.seq <= self.seq:  # the writer has caught up meanwhile
            return
        self.state, self.view, self._restart_time_ns = state, view, manifest.time_ns
        self.history.restart(manifest.seq, manifest.chain, state.digest)
        self.head = None
        _logger.info("state read from a snapshot", seq=self.seq, state_digest=state.digest.hex()[:16])
        for observer in self.on_applied:
            observer()

    async def _load(self, log: EventLog) -> None:
        head = await log.head()
        unyielded = 0
        if self.seq < head.last_seq:
            async for commit in log.read(self.seq + 1, head.last_seq):
                self.apply(commit)
                unyielded += len(commit.records)
                if unyielded >= _FOLD_AT_ONCE:
                    unyielded = 0
                    await asyncio.sleep(0)
        self.loaded = True
        _logger.info("log read", seq=self.seq, state_digest=self.state.digest.hex()[:16])
        self.history.wake()

    def _at_head(self) -> None:
        # Not by a commit alone: none comes while commands are refused because of `broken`.
        if self.broken:
            _logger.info("log is whole again", seq=self.seq)
        self.broken = ""

    async def _follow(self, log: EventLog) -> None:
        unyielded = 0
        async for commit in log.follow(self.seq + 1, self.chain, self._at_head):
            self.apply(commit)
            unyielded += len(commit.records)
            if unyielded >= _FOLD_AT_ONCE:
                unyielded = 0
                await asyncio.sleep(0)


def event_time_ns(record: bytes) -> int:
    """0 for a record that is no event."""
    try:
        return pb.Event.FromString(record).time_ns
    except DecodeError:
        return 0
