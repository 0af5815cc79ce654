"""The auditor beside a replica: what it reckons, and what it does when the replica's state is replaced or forged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from kilim.controlplane.auditor import Auditor
from kilim.controlplane.decide.view import Defaults, View
from kilim.controlplane.history import History
from kilim.controlplane.replica import Replica
from kilim.kvstore.commit import encode_commit
from kilim.model.desired import desired_tables
from kilim.model.fold import fold_record
from kilim.model.state import State
from kilim.v1 import events_pb2 as pb
from tests.pure.model.histories import BASE, NODES

pytestmark = pytest.mark.asyncio

RECORDS = [event.SerializeToString() for event in BASE]


def append(replica: Replica, *records: bytes) -> None:
    replica.apply(encode_commit(replica.seq + 1, replica.chain, list(records)))


def setting(value: str) -> bytes:
    return pb.Event(setting_changed=pb.SettingChanged(setting=pb.Setting(name="s", value=value))).SerializeToString()


def expected(records: list[bytes], node: str) -> bytes:
    state = State()
    for seq, record in enumerate(records, 1):
        fold_record(state, seq, record)
    return desired_tables(state, node).digest()


@contextlib.asynccontextmanager
async def audited(history: History | None = None) -> AsyncIterator[tuple[Replica, Auditor]]:
    replica = Replica(Defaults(), history)
    replica.loaded = True
    auditor = Auditor(replica)
    running = asyncio.create_task(auditor.run())
    try:
        yield replica, auditor
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def until(auditor: Auditor, holds: Callable[[], bool]) -> None:
    turned = asyncio.Event()
    auditor.on_advanced.append(turned.set)
    async with asyncio.timeout(20):
        while not holds():
            await turned.wait()
            turned.clear()
    auditor.on_advanced.remove(turned.set)


async def test_every_commit_has_the_digest_of_every_node_where_a_report_waits() -> None:
    async with audited() as (replica, auditor):
        await until(auditor, lambda: auditor.digests.first_seq == 0)  # the copy of nothing is there
        auditor.wanted = lambda: {5}
        append(replica, *RECORDS[:3])
        append(replica, *RECORDS[3:5])
        append(replica, *RECORDS[5:])
        await until(auditor, lambda: auditor.seq == len(RECORDS))
        for node in NODES:
            for seq in (5, len(RECORDS)):
                assert auditor.digests.at(node, seq) == expected(RECORDS[:seq], node)
            for seq in (1, 3, 4, 6):
                assert auditor.digests.at(node, seq) is None


async def test_a_replica_that_started_over_from_a_snapshot() -> None:
    async with audited() as (replica, auditor):
        append(replica, *RECORDS[:3])
        await until(auditor, lambda: auditor.seq == 3)
        state = State()
        for seq, record in enumerate(RECORDS, 1):
            fold_record(state, seq, record)
        replica.state, replica.view = state, View(state, Defaults())
        replica.history.restart(state.seq, b"c" * 32, state.digest)
        await until(auditor, lambda: auditor.seq == len(RECORDS))
        assert auditor.digests.at(NODES[0], 3) is None
        append(replica, setting("1"))
        await until(auditor, lambda: auditor.seq == replica.seq)
        assert auditor.difference is None
        for node in NODES:
            assert auditor.digests.at(node, replica.seq) == expected(RECORDS, node)


async def test_a_copy_of_a_state_in_doubt_clears_nobody() -> None:
    """The auditor begins again while its alarm stands: what it copies then agrees with itself and proves nothing."""
    async with audited(History(max_bytes=600)) as (replica, auditor):
        append(replica, *RECORDS)
        await until(auditor, lambda: auditor.seq == replica.seq)
        replica.state.put("setting", "forged", b"\n\x06forged")
        append(replica, setting("1"))
        await until(auditor, lambda: auditor.difference is not None)
        for number in range(40):  # more than memory holds, before the auditor has its turn
            append(replica, setting(str(number)))
        assert replica.history.first_seq > auditor.seq + 1
        await until(auditor, lambda: auditor.seq == replica.seq)
        append(replica, setting("last"))
        await until(auditor, lambda: auditor.seq == replica.seq)
        assert auditor.difference is not None
        sound = State()
        for seq, record in enumerate([*RECORDS, setting("last")], 1):
            fold_record(sound, seq, record)
        replica.state, replica.view = sound, View(sound, Defaults())
        replica.history.restart(replica.seq + 10, b"c" * 32, sound.digest)
        append(replica, setting("sound"))
        await until(auditor, lambda: auditor.seq == replica.seq)
        assert auditor.difference is None
