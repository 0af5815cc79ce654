"""How often the kernel is read back: by the setting in the log, from one moment to the next, and not at any price."""

import asyncio
from pathlib import Path

import pytest
import structlog

from kilim.agent import read_back
from kilim.agent.cache import DiskCache
from kilim.agent.enforcement import Enforcement
from kilim.agent.inbox import Inbox
from kilim.agent.memory_tables import MemoryReading, MemoryTables
from kilim.agent.read_back import NotInSync, ReadBack
from kilim.agent.replica import Replica
from kilim.kvstore.commit import encode_commit
from kilim.v1 import events_pb2 as pb
from tests.pure.agent.commits import NODE, some_log


def setting(value: str) -> bytes:
    changed = pb.SettingChanged(setting=pb.Setting(name="read-back-interval-s", value=value))
    return pb.Event(setting_changed=changed).SerializeToString()


class Node:
    def __init__(self, directory: Path) -> None:
        self.tables = MemoryTables()
        self.enforcement = Enforcement(
            Replica(NODE), Inbox(), DiskCache(directory), self.tables, {}, lambda _: None, lambda: None
        )
        for commit in some_log():
            self.enforcement.replica.apply_commit(commit)
        self.read_back = ReadBack(self.enforcement, self.tables)

    async def follow(self, *records: bytes) -> None:
        replica = self.enforcement.replica
        await self.enforcement._follow([encode_commit(replica.seq + 1, replica.chain, list(records))])

    def sync(self) -> None:
        self.enforcement.in_sync = True
        self.enforcement.repair()
        self.enforcement.drift_repairs.clear()


async def test_the_setting_counts_from_the_next_look_on(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert node.read_back.period_s() == 30
    for value, period_s in (("1", 1), ("0", 30), ("86400", 86400), ("", 30)):
        await node.follow(setting(value))
        assert node.read_back.period_s() == period_s


async def test_where_reading_is_dear_it_is_done_less_often_and_said_once(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.read_back.took_s = 0.5
    with structlog.testing.capture_logs() as logs:
        assert [node.read_back.period_s() for _ in range(3)] == [50, 50, 50]
        node.read_back.took_s = 0.1
        assert node.read_back.period_s() == 30
        node.read_back.took_s = 0.6
        assert node.read_back.period_s() == 60
    assert [(line["setting_s"], line["period_s"]) for line in logs] == [(30, 50.0), (30, 60.0)]


async def test_nothing_is_said_of_a_kernel_before_the_log_was_caught_up_with(tmp_path: Path) -> None:
    node = Node(tmp_path)
    with pytest.raises(NotInSync):
        await node.read_back.read()
    node.sync()
    assert (await node.read_back.read()).is_clean


async def test_who_asks_at_once_gets_one_reading_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(tmp_path)
    node.sync()
    started: list[int] = []
    start = MemoryTables.start_reading
    monkeypatch.setattr(MemoryTables, "start_reading", lambda tables: (started.append(1), start(tables))[1])
    moments = await asyncio.gather(*(node.read_back.read() for _ in range(20)))
    assert len(started) == 1 and all(moment is moments[0] for moment in moments)
    assert (await node.read_back.read()) is not moments[0]


async def test_a_kernel_that_cannot_be_read_is_told_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path)
    node.sync()
    await node.read_back._check()
    assert node.enforcement.report().kernel_readings == 1

    def fail(reading: MemoryReading) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(MemoryReading, "read", fail)
        await node.read_back._check()
    report = node.enforcement.report()
    assert list(report.errors) == ["the kernel's rows cannot be read back: Input/output error"]
    assert report.kernel_readings == 1
    await node.read_back._check()
    report = node.enforcement.report()
    assert not report.errors and report.kernel_readings == 2


async def test_a_kernel_that_fails_is_tried_again_without_haste(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_back, "_LOOK_S", 0.01)
    monkeypatch.setattr(read_back, "_RETRY_S", 0.05)
    node = Node(tmp_path)
    node.sync()
    looks, tried, enough = [], [], asyncio.Event()
    period = node.read_back.period_s

    def look() -> float:
        looks.append(1)
        return min(period(), 0.0)  # it is always time to read

    def repair() -> None:
        tried.append(1)
        if len(tried) == 3:
            enough.set()

    monkeypatch.setattr(node.read_back, "period_s", look)
    monkeypatch.setattr(node.enforcement, "repair", repair)
    node.enforcement.errors["kernel"] = "kernel tables: no space"
    running = asyncio.create_task(node.read_back.run())
    async with asyncio.timeout(10):
        await enough.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(looks) < 40
