"""Questions to agents about the rows in their kernels, and the answers on their way to those who asked.

Easy to get wrong: what a reader has not taken is held here, a few parts of it; one that takes nothing for a while loses
its answer, as the agent's other answers come behind it on the same stream.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

import structlog

from kilim.controlplane.reports import Reports
from kilim.v1 import controlplane_pb2 as api

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

AT_ONCE = 16  # of one node
FIND_US_S = 3.0  # agents try again every 2 s at most
ANSWER_S = 10.0
READER_S = 10.0
_PARTS_HELD = 4


class AgentAway(Exception):
    """Nobody answers for the node now; says why."""


class _Ask:
    """One reader's answer; None ends it before its last part."""

    def __init__(self) -> None:
        self.parts: asyncio.Queue[api.TablesPart | None] = asyncio.Queue(_PARTS_HELD)

    def end(self) -> None:
        while self.parts.full():
            self.parts.get_nowait()
        self.parts.put_nowait(None)


class _Agent:
    """The stream of one agent. Who is gone before its question was sent is not asked for, and of what was sent at most
    AT_ONCE are unanswered, whoever is gone since."""

    def __init__(self) -> None:
        self.asks: dict[int, _Ask] = {}  # of those who wait
        self._unsent: dict[int, None] = {}  # of these
        self._unanswered: set[int] = set()
        self._ended = False
        self._changed = asyncio.Event()

    def open(self, number: int) -> _Ask:
        ask = self.asks[number] = _Ask()
        self._unsent[number] = None
        self._changed.set()
        return ask

    def close(self, number: int) -> None:
        self.asks.pop(number, None)
        self._unsent.pop(number, None)

    async def questions(self) -> AsyncIterator[api.TablesQuestion]:
        while not self._ended:
            if self._unsent and len(self._unanswered) < AT_ONCE:
                number = next(iter(self._unsent))
                del self._unsent[number]
                self._unanswered.add(number)
                yield api.TablesQuestion(id=number)
            else:
                self._changed.clear()
                await self._changed.wait()

    async def take(self, answers: AsyncIterator[api.TablesAnswer]) -> None:
        try:
            async for answer in answers:
                if answer.part.last or answer.part.error:
                    self._unanswered.discard(answer.id)
                    self._changed.set()
                ask = self.asks.get(answer.id)
                if ask is None:  # nobody waits for it any more
                    continue
                try:
                    async with asyncio.timeout(READER_S):
                        await ask.parts.put(answer.part)
                except TimeoutError:
                    self.close(answer.id)
                    ask.end()
        finally:
            self._ended = True
            self._changed.set()
            for ask in self.asks.values():
                ask.end()


class TableAsks:
    """One per replica."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._agents: dict[str, list[_Agent]] = {}  # the newest last: a node has two while the older one ends
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()

    async def questions(self, node: str, answers: AsyncIterator[api.TablesAnswer]) -> AsyncIterator[api.TablesQuestion]:
        """For the agent whose stream this is, until that ends."""
        agent = _Agent()
        self._agents.setdefault(node, []).append(agent)
        self._changed.set()
        self._changed = asyncio.Event()
        taking = asyncio.create_task(agent.take(answers), name=f"tables of {node}")
        try:
            async with contextlib.aclosing(agent.questions()) as questions:  # type: ignore[type-var]
                async for question in questions:
                    yield question
        finally:
            self._agents[node].remove(agent)
            if not self._agents[node]:
                del self._agents[node]
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    async def read(self, node: str) -> AsyncIterator[api.TablesPart]:
        """What the node's agent answers. Raises AgentAway."""
        agent = await self._find(node)
        if len(agent.asks) >= AT_ONCE:
            raise AgentAway(f"node {node}: {AT_ONCE} others are reading its tables; try again")
        number = next(self._numbers)
        ask = agent.open(number)
        try:
            while True:
                async with asyncio.timeout(ANSWER_S):
                    part = await ask.parts.get()
                if part is None:
                    raise AgentAway(f"node {node}: its agent went away, or this reader was too slow, in mid-answer")
                yield part
                if part.last or part.error:
                    return
        except TimeoutError:
            _logger.warning("an agent does not answer for its tables", node=node, within_s=ANSWER_S)
            raise AgentAway(f"node {node}: its agent did not answer within {ANSWER_S:g} s") from None
        finally:
            agent.close(number)

    async def _find(self, node: str) -> _Agent:
        try:
            async with asyncio.timeout(FIND_US_S):
                while node not in self._agents:
                    if not self._reports.is_up(node) and not self._reports.is_awaited(node):
                        break
                    await self._changed.wait()
        except TimeoutError:
            pass
        agents = self._agents.get(node)
        if not agents:
            up = self._reports.is_up(node)
            why = "does not offer its tables: is it of another version?" if up else "is not connected to this replica"
            raise AgentAway(f"node {node}: its agent {why}")
        return agents[-1]
