"""Commands in phases: what every node must know is appended first, the rest when all nodes that are up enforce it.

Easy to get wrong: this is about packets, never about the state. A node that does not answer is waited for a second,
once; without any waiting the log says the same, and nodes that lag judge by what they know.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from kilim.controlplane.beside import MOST_STEPS, Beside
from kilim.controlplane.decide.command import (
    AllocateIdentities,
    ApplyObjects,
    Command,
    DeleteObjects,
    ObjectsChanged,
    Prepared,
    PreparePolicies,
    RegisterNode,
    ReleaseIdentities,
    RemoveEndpoint,
    WithdrawMemberships,
)
from kilim.controlplane.decide.draft import NotAtOnce
from kilim.controlplane.decide.phases import PIECE, Before, before
from kilim.controlplane.decide.refusal import Refusal
from kilim.controlplane.decide.view import View
from kilim.controlplane.replica import Replica
from kilim.controlplane.reports import Reports
from kilim.controlplane.writer import Answer, Busy, Writer, check_outcome, preview
from kilim.kvstore.errors import KvError, OutcomeUnknown, Unavailable
from kilim.model.address import Cidr

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

PATIENCE_S = 1.0  # with all nodes together, for one command
TOGETHER_S = 0.002  # reports come in swarms
_ROUNDS = 8
_LARGE_ROUNDS = 2
_AT_ONCE = (RegisterNode, RemoveEndpoint, ReleaseIdentities, AllocateIdentities)


@dataclass(slots=True)
class _Patience:
    """How much longer one command waits for nodes; what else takes its time does not count."""

    left_s: float


class PhasedWriter:
    """What the services call instead of the writer."""

    def __init__(self, replica: Replica, writer: Writer, reports: Reports) -> None:
        self._replica = replica
        self._writer = writer
        self._reports = reports
        self._beside = Beside(replica)
        self._given_up: dict[str, int] = {}  # nodes that were waited for in vain, and for which event

    async def submit(self, command: Command, actor: str) -> Answer:
        """As `Writer.submit`."""
        command = _in_phases(command)
        patience = _Patience(PATIENCE_S)
        if not isinstance(command, _AT_ONCE):
            await self._prepare(command, actor, patience)
        answer = await self._writer.submit(command, actor)
        if isinstance(answer.result, ObjectsChanged) and answer.result.unneeded:
            await self._withdraw(answer.result.unneeded, actor, patience)
        return answer

    async def preview(self, command: Command) -> Answer:
        """What would be answered now; nothing happens. Raises Refusal."""
        command = _in_phases(command)
        try:
            return preview(self._replica.view, command, MOST_STEPS)
        except NotAtOnce:
            return await self._beside.run(lambda view: preview(view, command))

    async def _prepare(self, command: Command, actor: str, patience: _Patience) -> None:
        rounds_left = _ROUNDS  # others may change meanwhile what is needed
        while self._replica.loaded and rounds_left > 0:
            rounds_left -= 1
            try:
                first = _look(self._replica.view, command, MOST_STEPS)
            except NotAtOnce:
                rounds_left = min(rounds_left, _LARGE_ROUNDS)
                first = await self._beside.run(lambda view: _look(view, command))
                if first.refused is not None:  # on a state that there was since it was asked
                    self._writer.refuse(first.refused)
            waited = await self._enforced(first.seq, patience)
            if first.command is None:
                if not waited:
                    return
                continue
            try:
                seq = await self._bring(first.command, actor)
                if isinstance(first.later, PreparePolicies) and first.later.most is not None:
                    await self._enforced(max(seq, self._replica.view.policies_seq), patience)
                    await self._bring(first.later, actor)
            except Refusal:
                return  # the command itself says it better
            except OutcomeUnknown as error:
                raise Unavailable(f"not tried: what comes before it may have failed: {error}") from error

    async def _bring(self, command: Command, actor: str) -> int:
        """A piece at a time, others' commands between them. Returns the last event's number."""
        match command:
            case AllocateIdentities(wanted=wanted) if len(wanted) > PIECE:
                for start in range(0, len(wanted), PIECE):
                    piece = AllocateIdentities(wanted[start : start + PIECE])
                    answer = await self._writer.submit_uncounted(piece, actor)
            case PreparePolicies():
                answer = await self._writer.submit_uncounted(command, actor)
                while answer.result == Prepared(is_all=False):
                    answer = await self._writer.submit_uncounted(command, actor)
            case _:
                answer = await self._writer.submit_uncounted(command, actor)
        return answer.seq

    async def _withdraw(self, prefixes: tuple[Cidr, ...], actor: str, patience: _Patience) -> None:
        """The command is done: what fails here is done after the grace period."""
        command = WithdrawMemberships(prefixes)
        with suppress(KvError, Busy, Refusal):
            await self._prepare(command, actor, patience)
            await self._writer.submit_uncounted(command, actor)

    async def _enforced(self, seq: int, patience: _Patience) -> bool:
        """Whether there was anything to wait for, until all nodes that are up enforce it or patience is over."""
        waited = False
        while late := self._late(seq):
            if patience.left_s <= 0:
                self._given_up |= dict.fromkeys(late, seq)
                _logger.warning("nodes are not waited for", nodes=sorted(late), seq=seq)
                return False
            waited = True
            begun_s = time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(patience.left_s):
                    await self._reports.wait()
                    await asyncio.sleep(TOGETHER_S)
            patience.left_s -= time.monotonic() - begun_s
        return waited

    def _late(self, seq: int) -> set[str]:
        late = self._reports.behind(seq)
        return {node for node, enforced in late.items() if enforced >= self._given_up.get(node, 0)}


def _look(view: View, command: Command, most_steps: int | None = None) -> Before:
    """As `before`; a command that would be too large is refused too."""
    first = before(view, command, most_steps)
    if first.command is None or first.outcome is None:
        return first
    too_large = check_outcome(command, first.outcome)
    return first if too_large is None else Before(refused=too_large)


def _in_phases(command: Command) -> Command:
    """Labels that nobody needs after it go in a phase of their own."""
    if isinstance(command, ApplyObjects | DeleteObjects):
        return replace(command, keep_memberships=True)
    return command
