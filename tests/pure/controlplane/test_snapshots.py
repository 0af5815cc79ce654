"""A snapshot for many: made once, handed out part by part while it is made, whoever asked first and went."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from kilim.controlplane.decide.view import Defaults
from kilim.controlplane.replica import Replica
from kilim.controlplane.snapshots import Snapshots
from kilim.kvstore.errors import Unavailable
from kilim.model.nouns import Setting, setting_to_pb
from kilim.model.snapshot import decode_records
from kilim.model.state import State
from kilim.v1 import controlplane_pb2 as api


def large() -> Replica:
    replica = Replica(Defaults())
    for number in range(3000):
        value = setting_to_pb(Setting(f"s{number}", "x" * 1000)).SerializeToString(deterministic=True)
        replica.state.put("setting", f"s{number}", value)
    return replica


async def test_who_asked_first_may_go_and_all_get_the_same() -> None:
    replica = large()
    snapshots = Snapshots(replica)
    first = snapshots.take()
    async with contextlib.aclosing(first.parts()) as parts:  # type: ignore[type-var]
        begun = await anext(parts)
    assert snapshots.take() is first
    one, other = await asyncio.gather(*(_all(snapshots) for _ in range(2)))
    assert one == other and one[0] is begun and len(one) > 3
    state = State()
    messages = [api.SubscribeResponse.FromString(each).snapshot for each in one]
    assert [part.last for part in messages] == [False] * (len(one) - 1) + [True]
    for part in messages:
        state.load(decode_records(part.records), part.seq)
    assert state.digest == replica.state.digest == messages[0].state_digest


async def test_of_nothing_there_is_one_part() -> None:
    parts = await _all(Snapshots(Replica(Defaults())))
    assert [api.SubscribeResponse.FromString(each).snapshot.last for each in parts] == [True]


async def _all(snapshots: Snapshots) -> list[bytes]:
    return [part async for part in snapshots.take().parts()]


async def test_no_more_than_two_are_held_whoever_reads_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kilim.controlplane.snapshots.SHARED_EVENTS", 0)
    replica = large()
    snapshots = Snapshots(replica)
    readers, taken = [], []
    for _ in range(6):
        replica.history.seq += 1  # type: ignore[misc]
        taken.append(snapshots.take())
        readers.append(taken[-1].parts())
        await anext(readers[-1])
    assert len({id(each) for each in taken}) == 2 and taken[-1] is taken[1]
    monkeypatch.setattr("kilim.controlplane.snapshots.OLDER_S", 0.0)
    third = snapshots.take()
    assert third is not taken[1]
    with pytest.raises(Unavailable, match="too slowly"):
        async for _ in readers[0]:
            pass
    assert len([part async for part in readers[1]]) > 2  # the one before the last goes on
    assert len([part async for part in third.parts()]) > 3
    for each in readers:
        await each.aclose()
