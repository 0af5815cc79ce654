"""Commands in phases: what every node must know is appended first, the rest when all nodes that are up enforce it.

Easy to get wrong: this is about packets, never about the state. A node that does not answer is waited for a second,
once; without any waiting the log says the same, and nodes that lag judge by what they know.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import replace

import structlog

from kilim.controlplane.decide.command import (
    AllocateIdentities,
    ApplyObjects,
    Command,
    DeleteObjects,
    ObjectsChanged,
    RegisterNode,
    ReleaseIdentities,
    RemoveEndpoint,
    WithdrawMemberships,
)
from kilim.controlplane.decide.phases import before
from kilim.controlplane.decide.refusal import Refusal
from kilim.controlplane.replica import Replica
from kilim.controlplane.reports import Reports
from kilim.controlplane.writer import Answer, Busy, Writer
from kilim.kvstore.errors import KvError, OutcomeUnknown, Unavailable
from kilim.model.address import Cidr

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

PATIENCE_S = 1.0  # with all nodes together, for one command
TOGETHER_S = 0.002  # reports come in swarms
_ROUNDS = 8
_AT_ONCE = (RegisterNode, RemoveEndpoint, ReleaseIdentities, AllocateIdentities)


class PhasedWriter:
    """What the services call instead of the writer."""

    def __init__(self, replica: Replica, writer: Writer, reports: Reports) -> None:
        self._replica = replica
        self._writer = writer
        self._reports = reports
        self._given_up: dict[str, int] = {}  # nodes that were waited for in vain, and for which event

    async def submit(self, command: Command, actor: str) -> Answer:
        """As `Writer.submit`."""
        command = _in_phases(command)
        if not isinstance(command, _AT_ONCE):
            await self._prepare(command, actor)
        answer = await self._writer.submit(command, actor)
        if isinstance(answer.result, ObjectsChanged) and answer.result.unneeded:
            await self._withdraw(answer.result.unneeded, actor)
        return answer

    def preview(self, command: Command) -> Answer:
        return self._writer.preview(_in_phases(command))

    async def _prepare(self, command: Command, actor: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        begun = False
        for _ in range(_ROUNDS):  # others may change meanwhile what is needed
            if not self._replica.loaded:
                return
            first = before(self._replica.view, command)
            waited = await self._enforced(first.seq, deadline_s)
            if first.command is not None:
                try:
                    if not begun:
                        self._writer.preview(command)
                    begun = True
                    await self._writer.submit_uncounted(first.command, actor)
                except Refusal:
                    return  # the command itself says it better
                except OutcomeUnknown as error:
                    raise Unavailable(f"not tried: what comes before it may have failed: {error}") from error
            elif not waited:
                return

    async def _withdraw(self, prefixes: tuple[Cidr, ...], actor: str) -> None:
        """The command is done: what fails here is done after the grace period."""
        command = WithdrawMemberships(prefixes)
        with suppress(KvError, Busy, Refusal):
            await self._prepare(command, actor)
            await self._writer.submit_uncounted(command, actor)

    async def _enforced(self, seq: int, deadline_s: float) -> bool:
        """Whether there was anything to wait for, until all nodes that are up enforce it or time is over."""
        waited = False
        while late := self._late(seq):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                self._given_up |= dict.fromkeys(late, seq)
                _logger.warning("nodes are not waited for", nodes=sorted(late), seq=seq)
                return False
            waited = True
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._reports.wait()
                    await asyncio.sleep(TOGETHER_S)
        return waited

    def _late(self, seq: int) -> set[str]:
        late = self._reports.behind(seq)
        return {node for node, enforced in late.items() if enforced >= self._given_up.get(node, 0)}


def _in_phases(command: Command) -> Command:
    """Labels that nobody needs after it go in a phase of their own."""
    if isinstance(command, ApplyObjects | DeleteObjects):
        return replace(command, keep_memberships=True)
    return command
