"""Is a snapshot what the log gives? Reckoned from etcd alone: a snapshot before it, and every event since, folded anew.

Easy to get wrong: nothing that this replica remembers may be used, its state and its history are what is in question.
Where the log does not begin at event 1, what it begins with is taken as given: it was proven before events went.
"""

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import structlog

from kilim.controlplane.slices import LOAD_AT_ONCE, Slices
from kilim.kvstore.commit import CHAIN_START, Commit
from kilim.kvstore.errors import KvError, LogBroken, SnapshotBroken
from kilim.kvstore.log import EventLog
from kilim.kvstore.snapshots import SnapshotManifest, SnapshotStore
from kilim.kvstore.span import Span
from kilim.model.fold import fold_record
from kilim.model.snapshot import decode_records
from kilim.model.state import State

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class NothingToProveBy(KvError):
    """The log does not begin at event 1, and no snapshot that it could begin from is whole."""


class Claim(NamedTuple):
    """That the log gives this state after event `seq`."""

    seq: int
    chain: bytes
    state_digest: bytes


class _Root(NamedTuple):
    seq: int
    chain: bytes
    state: State


def claim_of(manifest: SnapshotManifest) -> Claim:
    return Claim(manifest.seq, manifest.chain, manifest.state_digest)


async def why_not_of_log(log: EventLog, span: Span, claim: Claim) -> str:
    """Empty where the log has that chain digest there; `span` is what it was just now."""
    if claim.seq > span.last_seq:
        return f"the log ends before it, at event {span.last_seq}"
    found = span.chain if claim.seq == span.last_seq else span.chain_before
    if span.first_seq - 1 < claim.seq < span.last_seq:
        async with contextlib.aclosing(log.read(claim.seq + 1, claim.seq + 1)) as commits:
            commit = await anext(commits)
        if commit.first_seq != claim.seq + 1:
            return "it is of the middle of a commit"
        found = commit.chain_before
    if found != claim.chain:
        return f"its chain is {claim.chain.hex()}, the log's there {found.hex()}"
    return ""


async def read_state(
    snapshots: SnapshotStore, manifest: SnapshotManifest, rest: Callable[[], Awaitable[None]]
) -> State:
    """What the snapshot holds; `rest` is called between some of its entries and the next. Raises SnapshotBroken."""
    state = State()
    async with contextlib.aclosing(snapshots.read(manifest)) as parts:
        async for part in parts:
            records = decode_records(part)
            while chunk := list(islice(records, LOAD_AT_ONCE)):
                state.load(chunk, manifest.seq)
                await rest()
    state.seq = manifest.seq
    if state.digest != manifest.state_digest:
        raise SnapshotBroken(
            manifest.seq, f"it gives state digest {state.digest.hex()}, its manifest says {manifest.state_digest.hex()}"
        )
    return state


class Proofs:
    """Remembers what was proven, so that each event is folded once."""

    def __init__(self, log: EventLog, snapshots: SnapshotStore) -> None:
        self._log = log
        self._snapshots = snapshots
        self._proven: set[Claim] = set()
        self._slices = Slices()

    async def disprove(self, claims: Iterable[Claim], held: Sequence[SnapshotManifest]) -> dict[Claim, str]:
        """Why it is wrong, for each that is; the others are proven now. `held`: the snapshots there are. Those before
        the log's beginning are not looked at. Raises KvError where it cannot be told."""
        span = await self._log.span()
        wrong: dict[Claim, str] = {}
        unproven = []
        claims = sorted({claim for claim in claims if claim.seq >= span.first_seq - 1})
        for claim in claims:
            if reason := await why_not_of_log(self._log, span, claim):
                wrong[claim] = reason
            elif claim not in self._proven:
                unproven.append(claim)
        self._proven &= set(claims) - set(wrong)
        if unproven:
            fit = [one for one in held if one.seq >= span.first_seq - 1 and claim_of(one) not in wrong]
            root = await self._root(unproven[0].seq, span, fit)
            stored = set(map(claim_of, held))  # those before the root could not be read, which is for others to say
            wrong |= {
                one: "no snapshot before it is whole" for one in unproven if one.seq < root.seq and one not in stored
            }
            wrong |= await self._fold(deque(one for one in unproven if one.seq >= root.seq), root)
        return wrong

    async def _root(self, seq: int, span: Span, held: Sequence[SnapshotManifest]) -> _Root:
        """What to fold on from, to reach `seq`."""
        proven = [one for one in reversed(held) if claim_of(one) in self._proven and one.seq <= seq]
        given = held if span.first_seq > 1 else ()
        for manifest in (*proven, *given):
            try:
                state = await read_state(self._snapshots, manifest, self._slices.rest_in_time)
                return _Root(manifest.seq, manifest.chain, state)
            except SnapshotBroken as error:
                _logger.error("snapshot cannot be used, trying another one", seq=error.seq, reason=error.reason)
        if span.first_seq > 1:
            raise NothingToProveBy(f"no snapshot in etcd is whole, and the log begins at {span.first_seq}: restore it")
        return _Root(0, CHAIN_START, State())

    async def _fold(self, claims: deque[Claim], root: _Root) -> dict[Claim, str]:
        wrong: dict[Claim, str] = {}
        self._judge(claims, root.seq, root.chain, root.state, wrong)
        if claims:
            expected = root.chain
            async with contextlib.aclosing(self._log.read(root.seq + 1, claims[-1].seq)) as commits:
                async for commit in commits:
                    if commit.chain_before != expected:
                        raise LogBroken(commit.first_seq, "it does not follow from the snapshot before it")
                    expected = commit.chain_after
                    await self._fold_commit(commit, root.state)
                    self._judge(claims, commit.last_seq, commit.chain_after, root.state, wrong)
        return wrong | dict.fromkeys(claims, "the log ends before it")

    async def _fold_commit(self, commit: Commit, state: State) -> None:
        for number, record in enumerate(commit.records):
            fold_record(state, commit.first_seq + number, record)
            await self._slices.rest_in_time()

    def _judge(self, claims: deque[Claim], seq: int, chain: bytes, state: State, wrong: dict[Claim, str]) -> None:
        """Those that are reached."""
        while claims and claims[0].seq <= seq:
            claim = claims.popleft()
            if claim == (seq, chain, state.digest):
                self._proven.add(claim)
            else:
                wrong[claim] = f"its state digest is {claim.state_digest.hex()}, the log gives {state.digest.hex()}"
