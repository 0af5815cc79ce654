"""A second fold of the same log: what this replica's state should be, and every node's table digest at every event.

Easy to get wrong: it must cost the write path nothing that is felt, so it works in short slices and rests between them,
and may be behind. It begins with a copy of the replica's state; from there on it rests on the events alone, so a state
that was changed by anything else is noticed. A replica that started over from a snapshot is copied anew.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from itertools import islice

import structlog

from kilim.controlplane.compared import Difference
from kilim.controlplane.replica import Replica
from kilim.controlplane.table_digests import TableDigests
from kilim.kvstore.commit import decode_commit
from kilim.model.cluster_tables import ClusterTables
from kilim.model.fold import fold_record
from kilim.model.snapshot import Frozen, freeze
from kilim.model.state import State, key_to_bytes

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

# A slice delays all else in the process. Under load our share of the CPU is SLICE_S / (SLICE_S + REST_S).
SLICE_S = 0.005
REST_S = 0.010
LOOK_EVERY_S = 3.0
FAILED_WAIT_S = 5.0
_LOAD_AT_ONCE = 256


class Auditor:
    """`run()` belongs in the caller's TaskGroup."""

    def __init__(self, replica: Replica) -> None:
        self.digests = TableDigests()
        self.difference: Difference | None = None  # the replica's state is not what its events give
        self.on_advanced: list[Callable[[], None]] = []
        self._replica = replica
        self._state = State()
        self._tables = ClusterTables()
        self._chain = b""
        self._doubted: State | None = None  # what `difference` was found in
        self._began_sound = True  # our copy was not made of a state in doubt
        self._slice_ends_s = 0.0

    @property
    def seq(self) -> int:
        """As far as digests are known."""
        return self.digests.seq

    async def run(self) -> None:
        """For ever."""
        await self._replica.wait_loaded()
        while True:
            try:
                await self._copy()
                await self._follow()
            except Exception:  # of ours; nobody else is to suffer from it
                _logger.exception("table digests cannot be reckoned", seq=self.seq)
                await asyncio.sleep(FAILED_WAIT_S)

    async def _copy(self) -> None:
        """Of the replica's state as it is now."""
        started_s = time.monotonic()
        frozen, self._chain = freeze(self._replica.state), self._replica.chain
        seq = self._replica.seq
        self._began_sound = self.difference is None or self._replica.state is not self._doubted
        self._state, self._tables = State(), ClusterTables()
        records = _records(frozen)
        while chunk := list(islice(records, _LOAD_AT_ONCE)):
            self._state.load(chunk, seq)
            await self._rest_in_time()
        if self._state.digest != frozen.state_digest:
            self._note(seq, frozen.state_digest)
        for _ in self._tables.fill(self._state):
            await self._rest_in_time()
        gc.freeze()  # some hundred thousand objects that live as long as we do
        own = {node: self._tables.own_part(node) for node in self._tables.nodes()}
        self._tables.take_changed()
        self.digests.begin(seq, self._tables.far_part, own)
        _logger.info(
            "table digests of all nodes are known",
            seq=seq,
            nodes=len(own),
            took_s=round(time.monotonic() - started_s, 2),
        )
        self._tell()

    async def _follow(self) -> None:
        """Until the history has no longer what comes next."""
        history = self._replica.history
        while True:
            held = history.next_batch(self.seq + 1)
            if held is None or (not held and self.seq != self._replica.seq):
                return
            for each in held:
                commit = decode_commit(each.encoded)
                if commit.chain_before != self._chain:
                    return
                for number, record in enumerate(commit.records):
                    await self._take(commit.first_seq + number, record)
                self._chain = commit.chain_after
            self._tell()
            if not held:
                self._look()
                try:
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await history.wait(self.seq)
                except TimeoutError:
                    continue
                for _ in range(3):  # those who were woken with us go first
                    await asyncio.sleep(0)

    async def _take(self, seq: int, record: bytes) -> None:
        for _ in self._tables.steps(self._state, fold_record(self._state, seq, record)):
            await self._rest_in_time()
        changed = {node: self._tables.own_part(node) for node in self._tables.take_changed()}
        self.digests.add(self._tables.far_part, changed)
        theirs = self._replica.history.digest_at(seq)
        if theirs is not None:
            self._note(seq, theirs)
        await self._rest_in_time()

    async def _rest_in_time(self) -> None:
        if time.monotonic() >= self._slice_ends_s:
            self._tell()
            await asyncio.sleep(REST_S)
            self._slice_ends_s = time.monotonic() + SLICE_S

    def _look(self) -> None:
        """At the state itself, whatever its digest was after the last event."""
        if self.seq == self._replica.seq:
            self._note(self.seq, self._replica.state.digest)

    def _note(self, seq: int, theirs: bytes) -> None:
        ours = self._state.digest
        if ours != theirs:
            if self.difference is None:
                _logger.error("state is not what its events give", seq=seq, state=theirs.hex(), events=ours.hex())
            self._doubted = self._replica.state
            self.difference = Difference("state digest", seq, theirs, ours)
        elif self.difference is not None and self._began_sound:
            _logger.info("state is what its events give again", seq=seq)
            self.difference = self._doubted = None

    def _tell(self) -> None:
        for observer in self.on_advanced:
            observer()


def _records(frozen: Frozen) -> Iterator[tuple[str, bytes, bytes]]:
    for table, entries in frozen.tables.items():
        for key, value in entries.items():
            yield table, key_to_bytes(key), value
