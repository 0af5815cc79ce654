"""One replica to 10, 100 and 1,000 subscribers: delay of each event at a steady rate, then as many as it can deliver.

Delay is from etcd's answer to the append (made past the replica, by the benchmark) to the subscriber's socket; CPU is
the replica's, user and system, with all it does besides: following the log, folding, heartbeats.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.log import EventLog, LogHead
from kilim.v1 import events_pb2 as pb
from tests.bench.measure import Result, percentile, publish, single
from tests.bench.netload import BenchError
from tests.bench.plane import CLUSTER, Plane, plane
from tests.bench.subscribers import Crowd, Deliveries

SUBSCRIBERS = (10, 100, 1000)
_PROCESSES = 4
_RATE = 20
_STEADY = 200
_FLOOD = 10_000
_FLOOD_A_COMMIT = 50
_PATIENCE_S = 60.0


class _Source:
    """Appends events past the replica; remembers when etcd acknowledged each."""

    def __init__(self, log: EventLog, head: LogHead) -> None:
        self._log, self._head = log, head
        self._made = 0
        self.at_s: dict[int, float] = {}

    @property
    def last_seq(self) -> int:
        return self._head.last_seq

    async def append(self, count: int) -> None:
        records = [self._record() for _ in range(count)]
        first = self._head.next_seq
        _, self._head = await self._log.append(self._head, records)
        self.at_s |= dict.fromkeys(range(first, first + count), time.monotonic())

    def _record(self) -> bytes:
        self._made += 1
        endpoint = pb.Endpoint(
            namespace="bench", name=f"app-7d4b9c6f5-{self._made % 1000:06d}", node=f"node{self._made % 100}",
            endpoint_id=1 + self._made % 60_000, ip=0x0A800000 + self._made % 1000, identity=1000,
            container_id=f"{self._made:064x}",
        )  # fmt: skip
        event = pb.Event(endpoint_added=pb.EndpointAdded(endpoint=endpoint), actor="bench", cause="bench", time_ns=1)
        return event.SerializeToString()


async def _collect(crowds: list[Crowd], seq: int) -> list[Deliveries]:
    for crowd in crowds:
        crowd.ask(seq)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await asyncio.gather(*(asyncio.to_thread(crowd.answer) for crowd in crowds))
    except (TimeoutError, EOFError):
        raise BenchError(f"the subscribers did not all get event {seq} within {_PATIENCE_S:g} s") from None


def _delays_ms(source: _Source, deliveries: list[Deliveries]) -> list[float]:
    return [
        (at_s - source.at_s[seq]) * 1e3
        for each in deliveries
        for at_s, first, last in zip(*each, strict=True)
        for seq in range(first, last + 1)
    ]


async def _measure(running: Plane, source: _Source, count: int) -> list[Result]:
    replica = running.replicas[0]
    share = [count // _PROCESSES + (number < count % _PROCESSES) for number in range(_PROCESSES)]
    crowds = [Crowd.start(replica.address, each, source.last_seq + 1) for each in share if each]
    try:
        await source.append(1)
        await _collect(crowds, source.last_seq)
        idle_s = await _cpu_over(replica.cpu_s, asyncio.sleep(2.0)) / 2.0
        before = replica.cpu_s()
        for _ in range(_STEADY):
            await asyncio.gather(source.append(1), asyncio.sleep(1 / _RATE))
        delays = _delays_ms(source, await _collect(crowds, source.last_seq))
        steady_s = replica.cpu_s() - before
        before, begun = replica.cpu_s(), time.monotonic()
        for _ in range(_FLOOD // _FLOOD_A_COMMIT):
            await source.append(_FLOOD_A_COMMIT)
        await _collect(crowds, source.last_seq)
        flood_s, took_s = replica.cpu_s() - before, time.monotonic() - begun
    finally:
        for crowd in crowds:
            await asyncio.to_thread(crowd.stop)
    name = f"fanout_{count}"
    return [
        single(f"{name}_delay_p50_ms", "ms", [percentile(delays, 0.5)]),
        single(f"{name}_delay_p99_ms", "ms", [percentile(delays, 0.99)]),
        single(f"{name}_cpu_per_delivery_us", "µs", [steady_s / (_STEADY * count) * 1e6]),
        single(f"{name}_idle_cpu_percent", "%", [idle_s * 100]),
        single(f"{name}_flood_deliveries_per_s", "1/s", [_FLOOD * count / took_s]),
        single(f"{name}_flood_cpu_per_delivery_us", "µs", [flood_s / (_FLOOD * count) * 1e6]),
    ]


async def _cpu_over(cpu_s: Callable[[], float], work: Awaitable[None]) -> float:
    before = cpu_s()
    await work
    return cpu_s() - before


async def _run() -> None:
    results: list[Result] = []
    async with plane(replicas=1) as running:
        etcd = EtcdClient(running.etcd)
        log = EventLog(etcd, CLUSTER)
        source = _Source(log, await log.head())
        for count in SUBSCRIBERS:
            results += await _measure(running, source, count)
        await etcd.close()
    publish("fanout", results)


def run() -> None:
    asyncio.run(_run())
