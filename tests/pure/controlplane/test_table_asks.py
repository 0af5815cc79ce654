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


async def asked_and_gone(asks: TableAsks) -> None:
    reader = asks.read("node1")
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await reader.aclose()


async def test_who_is_gone_is_not_asked_for() -> None:
    asks, stream = TableAsks(cast(Reports, Up())), Stream()
    questions = asks.questions("node1", aiter(stream))
    first = asyncio.ensure_future(anext(questions))
    await asyncio.sleep(0)
    await asked_and_gone(asks)
    begun = await first  # on its way to the agent already
    for _ in range(50):
        await asked_and_gone(asks)
    reader = asks.read("node1")
    waiting = asyncio.ensure_future(anext(reader))
    number = (await anext(questions)).id
    assert number == begun.id + 51
    for each in (begun.id, number):
        stream.answers.put_nowait(api.TablesAnswer(id=each, part=api.TablesPart(last=True)))
    assert (await asyncio.wait_for(waiting, 5)).last
    await reader.aclose()
    await questions.aclose()


async def test_an_agent_that_answers_nothing_is_asked_a_few_questions() -> None:
    asks, stream = TableAsks(cast(Reports, Up())), Stream()
    questions = asks.questions("node1", aiter(stream))
    numbers: list[int] = []
    one_more = asyncio.Event()

    async def take() -> None:
        async for question in questions:
            numbers.append(question.id)
            if len(numbers) > AT_ONCE:
                one_more.set()

    taking = asyncio.create_task(take())
    await asyncio.sleep(0)
    for _ in range(AT_ONCE * 3):
        await asked_and_gone(asks)
        await asyncio.sleep(0)
    assert len(numbers) == AT_ONCE
    reader = asks.read("node1")
    waiting = asyncio.ensure_future(anext(reader))
    stream.answers.put_nowait(api.TablesAnswer(id=numbers[0], part=api.TablesPart(last=True)))
    async with asyncio.timeout(5):
        await one_more.wait()
        stream.answers.put_nowait(api.TablesAnswer(id=numbers[-1], part=api.TablesPart(last=True)))
        assert (await waiting).last
        stream.answers.put_nowait(None)
        await taking
    await reader.aclose()


async def test_of_two_streams_the_one_that_stays_is_asked() -> None:
    asks, streams = TableAsks(cast(Reports, Up())), [Stream(), Stream()]
    older, newer = (asks.questions("node1", aiter(stream)) for stream in streams)
    first, second = asyncio.ensure_future(anext(older)), asyncio.ensure_future(anext(newer))
    await asyncio.sleep(0)
    streams[1].answers.put_nowait(None)
    with pytest.raises(StopAsyncIteration):
        await second
    reader = asks.read("node1")
    waiting = asyncio.ensure_future(anext(reader))
    streams[0].answers.put_nowait(api.TablesAnswer(id=(await first).id, part=api.TablesPart(last=True)))
    assert (await asyncio.wait_for(waiting, 5)).last
    await reader.aclose()
    await older.aclose()


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
