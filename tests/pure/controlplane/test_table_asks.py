"""Answers for the tables of one node: a reader that takes nothing holds up the others for a while only."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from kilim.controlplane import table_asks
from kilim.controlplane.reports import Reports
from kilim.controlplane.table_asks import AT_ONCE, AgentAway, TableAsks
from kilim.v1 import controlplane_pb2 as api


class Up:
    def is_up(self, node: str) -> bool:
        return True

    def is_awaited(self, node: str) -> bool:
        return False


class Stream:
    """What an agent sends, as it is put in."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[api.TablesAnswer | None] = asyncio.Queue()

    def __aiter__(self) -> AsyncIterator[api.TablesAnswer]:
        return self._answers()

    async def _answers(self) -> AsyncIterator[api.TablesAnswer]:
        while (answer := await self.answers.get()) is not None:
            yield answer


async def test_a_reader_that_takes_nothing_loses_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_asks, "READER_S", 0.05)
    asks, stream = TableAsks(cast(Reports, Up())), Stream()
    questions = asks.questions("node1", aiter(stream))
    first = asyncio.ensure_future(anext(questions))
    slow = asks.read("node1")
    waiting = asyncio.ensure_future(anext(slow))
    number = (await first).id
    for _ in range(20):
        stream.answers.put_nowait(api.TablesAnswer(id=number, part=api.TablesPart(table="ipcache")))
    await waiting  # and then nothing more
    second = asyncio.ensure_future(anext(questions))
    quick = asks.read("node1")
    waiting = asyncio.ensure_future(anext(quick))
    stream.answers.put_nowait(api.TablesAnswer(id=(await second).id, part=api.TablesPart(last=True)))
    assert (await asyncio.wait_for(waiting, 5)).last
    with pytest.raises(AgentAway, match="too slow"):
        async for _ in slow:
            pass
    await quick.aclose()
    await questions.aclose()


async def test_not_everybody_is_served_at_once() -> None:
    asks, stream = TableAsks(cast(Reports, Up())), Stream()
    questions = asks.questions("node1", aiter(stream))
    first = asyncio.ensure_future(anext(questions))
    readers = [asyncio.ensure_future(anext(asks.read("node1"))) for _ in range(AT_ONCE)]
    await first
    with pytest.raises(AgentAway, match="16 others are reading"):
        await anext(asks.read("node1"))
    stream.answers.put_nowait(None)
    with pytest.raises(StopAsyncIteration):
        while True:
            await anext(questions)
    results = await asyncio.gather(*readers, return_exceptions=True)
    assert all(isinstance(result, AgentAway) for result in results)
