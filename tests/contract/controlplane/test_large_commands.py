"""A policy that gives thousands of pods another identity: others are answered meanwhile, and the log says the same."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from kilim.controlplane import beside
from kilim.controlplane.beside import MOST_STEPS
from kilim.controlplane.decide.batch import decide_batch
from kilim.controlplane.decide.command import Command
from kilim.controlplane.decide.decided import Decided
from kilim.controlplane.decide.limits import Limits
from kilim.controlplane.decide.phases import PIECE
from kilim.controlplane.decide.view import Defaults, View
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.log import EventLog
from kilim.model.address import format_ip, parse_ip
from kilim.model.identity import is_shared
from kilim.model.nouns import Policy
from kilim.model.resource import parse_manifest
from kilim.v1 import events_pb2 as pb
from tests.contract.controlplane.harness import PATIENCE_S, Running, namespace, policy, replica
from tests.pure.controlplane import worlds
from tests.pure.controlplane.worlds import World

pytestmark = pytest.mark.asyncio(loop_scope="session")

BLOCK = "10.244.0.0/16"
PODS = 5 * PIECE + 7


@pytest_asyncio.fixture(loop_scope="session")
async def crowd(etcd: EmbeddedEtcd, cluster: str) -> World:
    """A log that thousands of commands have made, and what it comes to."""
    assert PODS > MOST_STEPS
    world, records = World(), []
    world.view = View(world.state, Defaults(cluster))
    first = parse_ip("10.244.0.2")
    commands: list[Command] = [worlds.node(f"node{n}", f"192.0.2.{n + 1}") for n in range(PODS // 200 + 1)]
    for n in range(PODS):
        node, number = divmod(n, 200)
        ip = format_ip(first + 256 * node + number)
        commands.append(worlds.endpoint(f"p{n}", ip, number + 1, f"node{node}", app=f"a{n % 7}"))
    for command in commands:
        records += [event.SerializeToString() for event in _happen(world, command).events]
    client = EtcdClient(etcd.endpoints)
    log = EventLog(client, cluster)
    await log.append(await log.head(), records)
    await client.close()
    return world


def _happen(world: World, command: Command) -> Decided:
    (outcome,) = decide_batch(world.view, [command])
    assert isinstance(outcome, Decided), outcome
    world.happen(outcome)
    return outcome


@pytest_asyncio.fixture(loop_scope="session")
async def running(etcd: EmbeddedEtcd, cluster: str, crowd: World) -> AsyncIterator[Running]:
    async with replica(etcd.endpoints, cluster) as running:
        yield running


async def events_after(etcd: EmbeddedEtcd, cluster: str, seq: int) -> list[pb.Event]:
    client = EtcdClient(etcd.endpoints)
    log = EventLog(client, cluster)
    events = [pb.Event.FromString(each) async for commit in log.read(seq + 1) for each in commit.records]
    await client.close()
    return events


def bodies(events: list[pb.Event]) -> list[bytes]:
    """In the order of the phases, without who and when."""
    plain = [pb.Event.FromString(event.SerializeToString()) for event in events]
    for event in plain:
        event.ClearField("time_ns")
        event.ClearField("actor")
    plain.sort(key=lambda event: not is_shared(event.identity_allocated.identity.id))
    return [event.SerializeToString(deterministic=True) for event in plain]


async def test_others_are_answered_between_its_events_which_are_as_ever(
    etcd: EmbeddedEtcd, cluster: str, crowd: World, running: Running
) -> None:
    noun = parse_manifest(policy("p", BLOCK)).noun
    assert isinstance(noun, Policy)
    command = worlds.apply(noun)
    wanted = bodies(list(_happen(crowd, command).events))
    before = (await running.status()).seq
    large = asyncio.create_task(running.apply(policy("p", BLOCK)), name="large")
    answered = 0
    for n in itertools.count():
        await running.apply(namespace(f"n{n}"))
        if large.done():
            break
        answered += 1
    await large
    assert answered > 0
    events = await events_after(etcd, cluster, before)
    ours = [event.cause == "NetworkPolicy shop/p" for event in events]
    assert bodies([event for event, own in zip(events, ours, strict=True) if own]) == wanted
    updates = [n for n, event in enumerate(events) if event.WhichOneof("body") == "endpoint_updated"]
    assert len(updates) == PODS
    assert not all(ours[updates[0] : updates[-1]]), "nobody came between"


async def test_while_it_is_looked_at_others_go_on(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    looking, answered = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow_view(*arguments: Any) -> View:
        loop.call_soon_threadsafe(looking.set)
        assert answered.wait(PATIENCE_S)
        return View(*arguments)

    monkeypatch.setattr(beside, "View", slow_view)
    large = asyncio.create_task(running.apply(policy("p", BLOCK)), name="large")
    await asyncio.wait_for(looking.wait(), PATIENCE_S)
    seqs = [(await running.apply(namespace(f"n{n}"))).seq for n in range(3)]  # what it sees is of long ago then
    answered.set()
    assert (await large).seq > max(seqs) + PODS


async def test_a_dry_run_of_it_says_what_the_apply_says(running: Running) -> None:
    before = (await running.status()).seq
    dry = await running.apply(policy("p", BLOCK), dry_run=True)
    assert (await running.status()).seq == before
    assert (await running.apply(policy("p", BLOCK))).results == dry.results
    assert dry.results[0].action == "created"


async def test_refused_where_it_was_looked_at_it_is_refused(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not decided once more in the loop, which here would let it through."""
    full = Defaults(limits=Limits(ipcache=1))
    monkeypatch.setattr(beside, "View", lambda state, defaults: View(state, full))
    before = (await running.status()).seq
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.apply(policy("p", BLOCK))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "table ipcache of every node holds 1 rows" in str(refused.value.details())
    assert (await running.status()).seq == before
