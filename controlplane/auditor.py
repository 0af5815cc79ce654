"""A second fold of the same log: what this replica's state should be, and every node's table digest at ends of commits.

Easy to get wrong: it must cost the write path nothing that is felt, so it works in short slices and rests between them,
and may be behind. It begins with a copy of the replica's state; from there on it rests on the events alone, so a state
that was changed by anything else is noticed. A replica that started over from a snapshot is copied anew.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Collection, Iterator
from itertools import islice

import structlog

from kilim.controlplane.compared import Difference
from kilim.controlplane.history import Held
from kilim.controlplane.replica import Replica
from kilim.controlplane.slices import LOAD_AT_ONCE, Slices
from kilim.controlplane.table_digests import TableDigests
from kilim.kvstore.commit import decode_commit
from kilim.model.cluster_tables import ClusterTables
from kilim.model.fold import fold_record
from kilim.model.snapshot import Frozen, freeze
from kilim.model.state import Change, State, key_to_bytes

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

# Where commits keep coming we are behind by this much, the more the more they cost, and reckon many as one.
GATHER_FACTOR = 4
GATHER_MAX_S = 0.5
LOOK_EVERY_S = 3.0
FAILED_WAIT_S = 5.0


class Auditor:
    """`run()` belongs in the caller's TaskGroup."""

    def __init__(self, replica: Replica) -> None:
        self.digests = TableDigests()
        self.difference: Difference | None = None  # the replica's state is not what its events give
        self.on_advanced: list[Callable[[], None]] = []
        self.wanted: Callable[[], Collection[int]] = tuple  # the events at which a report waits for a digest
        self._replica = replica
        self._state = State()
        self._tables = ClusterTables()
        self._chain = b""
        self._doubted: State | None = None  # what `difference` was found in
        self._began_sound = True  # our copy was not made of a state in doubt
        self._slices = Slices(self._tell)

    @property
    def seq(self) -> int:
        """As far as digests are known."""
        return self.digests.seq

    def problems(self) -> list[str]:
        found = self.difference
        if found is None:
            return []
        said, given = found.theirs.hex(), found.ours.hex()
        return [f"this replica: its state digest at seq {found.seq} is {said}, its events give {given}"]

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
        while chunk := list(islice(records, LOAD_AT_ONCE)):
            self._state.load(chunk, seq)
            await self._slices.rest_in_time()
        if self._state.digest != frozen.state_digest:
            self._note(seq, frozen.state_digest)
        for _ in self._tables.fill(self._state):
            await self._slices.rest_in_time()
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
            begun_s = time.thread_time()
            if not await self._take_all(held):
                return
            self._tell()
            if held and self.seq == self._replica.seq:  # what comes meanwhile is reckoned together
                await asyncio.sleep(min(GATHER_FACTOR * (time.thread_time() - begun_s), GATHER_MAX_S))
            if not held:
                self._look()
                try:
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await history.wait(self.seq)
                except TimeoutError:
                    continue
                for _ in range(3):  # those who were woken with us go first
                    await asyncio.sleep(0)

    async def _take_all(self, held: list[Held]) -> bool:
        """Reckons where a report waits for it, and at the end: nodes report the ends of commits. False: these commits
        do not go on from ours."""
        wanted = self.wanted()
        changes: list[Change] = []
        for each in held:
            commit = decode_commit(each.encoded)
            if commit.chain_before != self._chain:
                return False
            for seq, record in enumerate(commit.records, commit.first_seq):
                changes += fold_record(self._state, seq, record)
                self._check_state(seq)
                if seq != commit.last_seq or (each is not held[-1] and seq not in wanted):
                    self.digests.skip()
                else:
                    await self._reckon(changes)
                    changes = []
                await self._slices.rest_in_time()
            self._chain = commit.chain_after
        return True

    async def _reckon(self, changes: list[Change]) -> None:
        """The tables follow all that the state has taken since they last did."""
        for _ in self._tables.steps(self._state, changes):
            await self._slices.rest_in_time()
        changed = {node: self._tables.own_part(node) for node in self._tables.take_changed()}
        self.digests.add(self._tables.far_part, changed)

    def _check_state(self, seq: int) -> None:
        theirs = self._replica.history.digest_at(seq)
        if theirs is not None:
            self._note(seq, theirs)

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
