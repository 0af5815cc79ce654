"""What the agent does now and then outlives a failure of the kernel's or the disk's."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from kilim.agent import runtime, veth_datapath
from kilim.agent.runtime import Agent
from kilim.agent.veth_datapath import VethDatapath


class Failing:
    """The first call fails."""

    def __init__(self, enough: int) -> None:
        self.calls = 0
        self.done = asyncio.Event()
        self._enough = enough

    def __call__(self, *_: object) -> None:
        self.calls += 1
        if self.calls == self._enough:
            self.done.set()
        if self.calls == 1:
            raise OSError(5, "Input/output error")


async def until(done: asyncio.Event, work: Callable[[], Any]) -> None:
    task = asyncio.ensure_future(work())
    waiting = asyncio.ensure_future(done.wait())
    await asyncio.wait([task, waiting], timeout=5, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_sweep_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(veth_datapath, "_SWEEP_S", 0.001)
    datapath, sweep = VethDatapath.__new__(VethDatapath), Failing(3)
    tables = SimpleNamespace(retired=("rows",), sweep=lambda due: sweep(), unsettled={}, settle=lambda due: None)
    datapath._bpf = SimpleNamespace(tables=tables)  # type: ignore[assignment]
    await until(sweep.done, datapath._sweep)
    assert sweep.calls >= 3


async def test_a_cache_that_cannot_be_written_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_CACHE_S", 0.001)
    monkeypatch.setattr(runtime, "_CACHE_RETRY_S", 0.001)
    agent, rewrite, notes = Agent.__new__(Agent), Failing(3), []
    agent._cache = SimpleNamespace(wants_rewrite=True, freeze=lambda _: None, rewrite=rewrite)  # type: ignore[assignment]
    agent.enforcement = SimpleNamespace(  # type: ignore[assignment]
        replica=SimpleNamespace(seq=1), note=lambda about, message: notes.append((about, message))
    )
    await until(rewrite.done, agent._keep_cache)
    assert notes[:2] == [("cache", "cache: [Errno 5] Input/output error"), ("cache", "")]
