"""Commits and events per second into the log, beside bare transactions on the same etcd: the log alone with one and
three appenders, then commands of clients through one replica and through three.

A bare transaction puts two keys, as a commit does, and compares nothing. Appenders have as many rivals as they are,
with transactions of the same size. Replicas have two kinds of rivals: as many as there are clients, each with one event
to a transaction (commands of clients that wait at the same time share a commit, so replicas can do more of them per
second than etcd does transactions), and as many as there are replicas, with transactions of the size of their commits.
"""

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

import grpc

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import CHAIN_START, encode_commit
from kilim.kvstore.errors import Conflict
from kilim.kvstore.head import LogHead, encode_head
from kilim.kvstore.log import EventLog
from kilim.kvstore.transaction import put
from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import controlplane_pb2_grpc as rpc
from kilim.v1 import events_pb2 as pb
from tests.bench.appender import appenders
from tests.bench.measure import Result, alternate_async, compared, publish, single
from tests.bench.plane import CLUSTER, Plane, plane

CLIENTS = 30
ROUNDS = 6
_ROUND_S = 1.2
_numbers = itertools.count(1)

Work = Callable[[], Awaitable[int]]  # does one thing, answers how many events that was


def _record() -> bytes:
    number = next(_numbers)
    endpoint = pb.Endpoint(
        namespace="bench", name=f"app-7d4b9c6f5-{number % 1000:06d}", node=f"node{number % 100}", endpoint_id=1,
        ip=0x0A800000 + number % 1000, identity=1000, container_id=f"{number:064x}",
    )  # fmt: skip
    event = pb.Event(endpoint_updated=pb.EndpointUpdated(endpoint=endpoint), actor="node:node1", cause="b", time_ns=1)
    return event.SerializeToString()


async def _rate(workers: Sequence[Work]) -> float:
    """Events per second of all workers together, each doing one thing after the other."""
    begun = time.perf_counter()

    async def repeat(work: Work) -> int:
        done = 0
        while time.perf_counter() - begun < _ROUND_S:
            done += await work()
        return done

    done = await asyncio.gather(*map(repeat, workers))
    return sum(done) / (time.perf_counter() - begun)


def _bare(etcd: EtcdClient, records: int) -> Work:
    commit = encode_commit(1, CHAIN_START, [_record() for _ in range(records)], "0123456789abcdef-1000")
    head = encode_head(LogHead(1 << 20, CHAIN_START, 0, commit.append_id))

    async def work() -> int:
        await etcd.transaction([], [put(f"/bench/log/{next(_numbers):020d}", commit.encoded), put("/bench/head", head)])
        return records

    return work


def _heedless(etcd: EtcdClient, cluster: str, records: int) -> Work:
    """An appender that takes no turns and tries again as soon as it has lost."""
    log = EventLog(etcd, cluster)
    head: list[LogHead] = []
    events = [_record() for _ in range(records)]

    async def work() -> int:
        if not head:
            head.append(await log.head())
        try:
            _, head[0] = await log.append(head[0], events)
        except Conflict as conflict:
            head[0] = conflict.head
            return 0
        return records

    return work


async def _of_log(etcd: EtcdClient) -> list[Result]:
    results = []
    for metric, count, records in (
        ("log_commits_per_s", 1, 1),
        ("log_events_per_s_100_a_commit", 1, 100),
        ("log_commits_per_s_3_without_turns", 3, 1),
    ):
        heedless = [_heedless(etcd, metric, records) for _ in range(count)]
        results.append(await _beside(metric, heedless, [_bare(etcd, records)] * count))
    async with appenders(etcd, "turns", 3, [_record()]) as ours:
        metric = "log_commits_per_s_3_contending"
        results.append(await _beside(metric, [each.append for each in ours], [_bare(etcd, 1)] * 3))
    return results


async def _beside(metric: str, ours: Sequence[Work], bare: Sequence[Work]) -> Result:
    mine, theirs = await alternate_async(lambda: _rate(ours), lambda: _rate(bare), ROUNDS)
    return compared(metric, "1/s", f"bare transactions, {len(bare)}", mine, theirs)


def _client(stub: rpc.NodesStub, number: int) -> Work:
    """Replaces the container of an endpoint of its own, time and again."""

    async def work() -> int:
        request = api.RegisterEndpointRequest(
            node="node1", namespace="bench", name=f"app-7d4b9c6f5-{number:06d}", container_id=f"{next(_numbers):064x}",
            ip=f"10.9.0.{number + 1}", endpoint_id=number,
        )  # fmt: skip
        await stub.RegisterEndpoint(request, timeout=30)
        return 1

    return work


async def _of_commands(running: Plane, etcd: EtcdClient) -> list[Result]:
    channels = [grpc.aio.insecure_channel(each.address) for each in running.replicas]
    stubs = [rpc.NodesStub(channel) for channel in channels]  # type: ignore[no-untyped-call]
    await stubs[0].RegisterNode(api.RegisterNodeRequest(name="node1", ip="192.0.2.1", pod_cidrs=["10.9.0.0/24"]))
    clients = [_client(stubs[number % len(stubs)], number) for number in range(1, CLIENTS + 1)]
    await asyncio.gather(*(client() for client in clients))
    log = EventLog(etcd, CLUSTER)
    commits: list[float] = []
    sizes: list[float] = []
    bare: list[float] = []  # events per second

    async def ours() -> float:
        before, begun = await log.head(), time.perf_counter()
        rate = await _rate(clients)
        took_s = time.perf_counter() - begun
        read = [len(commit.records) async for commit in log.read(before.next_seq)]
        commits.append(len(read) / took_s)
        events = round(statistics.median(read))
        sizes.append(events)
        bare.append(await _rate([_bare(etcd, events)] * len(stubs)))
        return rate

    mine, theirs = await alternate_async(ours, lambda: _rate([_bare(etcd, 1)] * CLIENTS), ROUNDS)
    for channel in channels:
        await channel.close()
    replicas = f"{len(stubs)}_replicas"
    same_size = f"bare transactions, {len(stubs)}"
    return [
        compared(f"commands_per_s_{replicas}_{CLIENTS}_clients", "1/s", f"bare transactions, {CLIENTS}", mine, theirs),
        compared(
            f"commits_per_s_{replicas}", "1/s", same_size, commits, [b / s for b, s in zip(bare, sizes, strict=True)]
        ),
        compared(f"events_per_s_{replicas}", "1/s", same_size, mine, bare),
        single(f"events_a_commit_{replicas}", "", sizes),
    ]


async def _run() -> None:
    results: list[Result] = []
    for replicas in (1, 3):
        async with plane(replicas) as running:
            etcd = EtcdClient(running.etcd)
            if replicas == 1:
                results += await _of_log(etcd)
            results += await _of_commands(running, etcd)
            await etcd.close()
    publish("append", results)


def run() -> None:
    asyncio.run(_run())
