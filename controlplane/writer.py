"""Commands into the log: all that wait are decided together and appended at exactly the head they were decided on.

Replicas that all have something to append take turns (`turns.py`), and commands wait together until it is ours.

Easy to get wrong: an answer is given only when what it rests on is in the log. Refusals and "nothing to do" rest on the
state too: they wait for the append of their batch, or where it has none for a fresh look at the head.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import structlog

from kilim.controlplane.counters import BUSY, DONE, GIVEN_UP, Counters
from kilim.controlplane.decide.batch import Outcome, decide_batch
from kilim.controlplane.decide.command import Command, Result
from kilim.controlplane.decide.decided import Decided
from kilim.controlplane.decide.refusal import Refusal
from kilim.controlplane.decide.view import View
from kilim.controlplane.packing import Part, check_size, pack
from kilim.controlplane.replica import Replica
from kilim.controlplane.store import FULL
from kilim.controlplane.turns import LOST_MAX, Turns, asked_slot_s
from kilim.kvstore.commit import Commit
from kilim.kvstore.errors import Conflict, KvError, LogBroken, NoSpace, OutcomeUnknown, Unavailable
from kilim.kvstore.log import EventLog, LogHead
from kilim.v1 import events_pb2 as pb

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

WAITING_MAX = 4096
TOGETHER_MAX = 512
_RECORDS_AT_ONCE = 512
# Clients wait for 10 s; an etcd that is away must be said before that.
HEAD_S = 4.0
APPEND_S = 4.0
UNKNOWN_WAIT_S = 3.0
TRIES_MAX = 10 * LOST_MAX  # of one batch: by then it has asked for the turn nine times


class Answer(NamedTuple):
    """`seq` is the head that includes the change, or the one at which there was nothing to change."""

    seq: int
    result: Result


class Busy(Exception):
    """More commands wait than this replica takes."""


class _DecideAgain(Exception):
    """The log moved on without us."""


@dataclass(slots=True, eq=False)
class _Waiting:
    command: Command
    actor: str
    answer: asyncio.Future[Answer]


_Answered = tuple[_Waiting, Outcome]


class Writer:
    """`run()` belongs in the caller's TaskGroup; `submit()` is what the services call."""

    def __init__(
        self,
        replica: Replica,
        log: EventLog,
        why_unavailable: Callable[[], str] = str,
        counters: Counters | None = None,
    ) -> None:
        self._replica = replica
        self._log = log
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(WAITING_MAX)
        self._head: LogHead | None = None  # the last one seen
        self._why_unavailable = why_unavailable  # not empty: commands are refused at once
        self._counters = counters or Counters()
        self._turns = Turns()
        replica.on_applied.append(self._see_commit)

    async def submit(self, command: Command, actor: str) -> Answer:
        """Raises Refusal, Busy, or what the log raised: Unavailable = surely not done, OutcomeUnknown = perhaps."""
        commands = self._counters.commands
        try:
            answer = await self.submit_uncounted(command, actor)
        except asyncio.CancelledError:  # who asked waits no longer; the command goes on
            commands[GIVEN_UP].inc()
            raise
        except Busy:
            commands[BUSY].inc()
            raise
        except Exception as error:
            self._counters.count_failure(error)
            raise
        commands[DONE].inc()
        return answer

    def refuse(self, refusal: Refusal) -> NoReturn:
        """As a command that is refused; it was decided elsewhere."""
        self._counters.count_failure(refusal)
        raise refusal

    async def submit_uncounted(self, command: Command, actor: str) -> Answer:
        """What nobody has asked for by itself."""
        reason = self._why_unavailable() or self._replica.broken
        if reason or not self._replica.loaded:
            raise Unavailable(reason or "this replica has not read the log yet")
        waiting = _Waiting(command, actor, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(waiting)
        except asyncio.QueueFull:
            raise Busy(f"{WAITING_MAX} commands wait already, try again later") from None
        return await waiting.answer

    async def run(self) -> None:
        """For ever: one batch after the other."""
        while True:
            batch = [await self._queue.get()]
            try:
                if reason := self._why_unavailable():  # known since these were taken
                    raise Unavailable(reason)
                await self._settle(batch)
            except asyncio.CancelledError:
                _fail(batch, OutcomeUnknown("this replica is stopping"))
                raise
            except KvError as error:
                self._note(error)
                _fail(batch, error)
            except Exception as error:
                _logger.exception("commands failed by an error of ours", commands=len(batch))
                _fail(batch, error)

    async def _settle(self, batch: list[_Waiting]) -> None:
        """Decide and append until every command of the batch has its answer; those that come before it is our turn
        are put in it. Raises KvError for those that have none."""
        fresh = False
        lost = 0
        while True:
            batch[:] = [waiting for waiting in batch if not waiting.answer.done()]
            if not batch:
                return
            try:
                async with asyncio.timeout(HEAD_S):
                    head = await self._wait_turn(fresh)
            except TimeoutError:
                raise Unavailable(f"the log's head cannot be read from etcd within {HEAD_S:g} s") from None
            if not fresh:  # else the head was read before the others came
                self._join(batch)
            begun_s = time.monotonic()
            parts = await self._decide(batch)
            if not any(part.records for part in parts):
                if fresh:
                    _give(self._replica.seq, (answer for part in parts for answer in part.answers))
                fresh = True
                continue
            try:
                await self._append(head, parts)
            except _DecideAgain:
                self._counters.append_conflicts.inc()
                fresh = False
                lost += 1
                if lost == TRIES_MAX:
                    raise Unavailable(f"other replicas were faster {lost} times, try again later") from None
                if lost % LOST_MAX == 0:
                    with contextlib.suppress(KvError):
                        await self._log.ask_turn(asked_slot_s(time.monotonic() - begun_s))

    async def _wait_turn(self, fresh: bool) -> LogHead:
        """The current head, once we may append to it."""
        head = await self._current_head(fresh)
        while wait_s := self._turns.wait_s(self._log.writer, time.monotonic()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._replica.history.wait(head.last_seq)
            head = await self._current_head(fresh=False)
        return head

    def _join(self, batch: list[_Waiting]) -> None:
        while len(batch) < TOGETHER_MAX and not self._queue.empty():
            batch.append(self._queue.get_nowait())

    def _see_commit(self) -> None:
        if self._replica.loaded and self._replica.head is not None:  # writers of long ago have no turn
            self._turns.note_commit(self._replica.head.writer, time.monotonic())

    async def _current_head(self, fresh: bool) -> LogHead:
        """A head at which the state stands exactly, after catching up; `fresh`: not older than this call."""
        head = self._last_head()
        while fresh or head is None or head.last_seq != self._replica.seq:
            seen = self._replica.seq
            if fresh or head is None or head.last_seq < seen:
                head = await self._log.head()
                fresh = False
            if head.last_seq < seen:
                raise LogBroken(head.next_seq, f"the log ends at {head.last_seq}, it had {seen} events before")
            await self._replica.catch_up(self._log, head.last_seq)
            self._head = head
            head = self._last_head()
        if head.chain != self._replica.chain:
            raise LogBroken(
                head.next_seq, f"the log ends with chain {head.chain.hex()}, not {self._replica.chain.hex()}"
            )
        self._head = head
        return head

    def _last_head(self) -> LogHead | None:
        """Without asking etcd; None where it must be asked."""
        head, applied = self._head, self._replica.head
        if head is None or applied is None or applied.last_seq <= head.last_seq:
            return head
        return applied

    async def _decide(self, batch: list[_Waiting]) -> list[Part[_Answered]]:
        """Awaits only after it has decided: what has changed by then is seen by the append."""
        while True:
            outcomes = decide_batch(self._replica.view, [waiting.command for waiting in batch])
            decided: list[tuple[_Answered, list[bytes], int]] = []
            for waiting, outcome in zip(batch, outcomes, strict=True):
                records = []
                for record in _stamped(outcome, waiting.actor):
                    records.append(record)
                    if len(records) % _RECORDS_AT_ONCE == 0:
                        await asyncio.sleep(0)
                preparations = _preparations(outcome)
                too_large = check_size(waiting.command, records, preparations)
                if too_large is not None and not waiting.answer.done():  # who asked may have given up
                    waiting.answer.set_exception(too_large)
                decided.append(((waiting, outcome), records, preparations))
            remaining = [waiting for waiting in batch if not waiting.answer.done()]
            if len(remaining) == len(batch):
                return pack(decided)
            batch = remaining

    async def _append(self, head: LogHead, parts: list[Part[_Answered]]) -> None:
        """Raises _DecideAgain where another replica was faster; KvError where it is not known or not possible."""
        for number, part in enumerate(parts):
            if part.records:
                try:
                    head = await self._append_part(head, part)
                except OutcomeUnknown:
                    later = [waiting for other in parts[number + 1 :] for waiting, _ in other.answers]
                    _fail(later, Unavailable("not tried: the outcome of a command before it is unknown"))
                    raise
            _give(self._replica.seq, part.answers)

    async def _append_part(self, head: LogHead, part: Part[_Answered]) -> LogHead:
        try:
            commit, after = await self._append_records(head, part.records)
        except Conflict as conflict:
            self._head = conflict.head
            raise _DecideAgain from conflict
        except NoSpace as error:
            raise NoSpace(FULL) from error
        except OutcomeUnknown as error:
            await self._find_out(head.next_seq, part, error)
            raise _DecideAgain from error
        self._turns.note_asked(self._log.asked, time.monotonic())
        self._counters.append_events.inc(len(part.records))
        self._replica.apply(commit)
        return after

    async def _append_records(self, head: LogHead, records: list[bytes]) -> tuple[Commit, LogHead]:
        begun_s = time.monotonic()
        try:
            commit, after = await self._log.append(head, records, timeout_s=APPEND_S)
        finally:
            took_s = time.monotonic() - begun_s
            self._counters.append_seconds.observe(took_s)
        self._turns.note_append(took_s)
        self._head = after
        return commit, after

    async def _find_out(self, first_seq: int, part: Part[_Answered], error: OutcomeUnknown) -> None:
        """Whatever commit comes at that place tells: it is ours, or ours can never be applied any more."""
        self._head = None
        try:
            async with asyncio.timeout(UNKNOWN_WAIT_S):
                while self._replica.seq < first_seq:
                    await self._replica.history.wait(first_seq - 1)
        except TimeoutError:
            raise error from None
        commit = self._replica.history.commit_with(first_seq)
        if commit is None:
            raise error
        if commit.append_id == self._log.append_id:
            _give(self._replica.seq, part.answers)

    def _note(self, error: KvError) -> None:
        self._head = None
        _logger.warning("commands not appended", error=str(error), kind=type(error).__name__)


def preview(view: View, command: Command, most_steps: int | None = None) -> Answer:
    """What would be answered now; nothing happens. Raises Refusal, and NotAtOnce as `decide_batch`."""
    outcome = decide_batch(view, [command], most_steps)[0]
    if isinstance(outcome, Refusal):
        raise outcome
    if too_large := check_outcome(command, outcome):
        raise too_large
    return Answer(view.state.seq, outcome.result)


def check_outcome(command: Command, outcome: Decided) -> Refusal | None:
    """Why it cannot be appended, if it cannot."""
    return check_size(command, list(_stamped(outcome, "")), outcome.preparations)


def _preparations(outcome: Outcome) -> int:
    return outcome.preparations if isinstance(outcome, Decided) else 0


def _stamped(outcome: Outcome, actor: str) -> Iterator[bytes]:
    """The records of what is decided."""
    now_ns = time.time_ns()
    for body in outcome.events if isinstance(outcome, Decided) else ():
        event = pb.Event(time_ns=now_ns, actor=actor)
        event.MergeFrom(body)
        yield event.SerializeToString(deterministic=True)


def _give(seq: int, answers: Iterable[_Answered]) -> None:
    for waiting, outcome in answers:
        if waiting.answer.done():
            continue
        if isinstance(outcome, Refusal):
            waiting.answer.set_exception(outcome)
        else:
            waiting.answer.set_result(Answer(seq, outcome.result))


def _fail(batch: Iterable[_Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)
