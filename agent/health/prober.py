"""Probes every other node in its turn and keeps what came of it.

Easy to get wrong: health endpoints are probed out of our own one where there is one, so that the packets go as those of
pods do, through the datapath and, where there is one, the tunnel; nodes are probed out of the node itself.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from kilim.agent.core.connectivity import (
    ICMP,
    UNREACHABLE,
    NodeConnectivity,
    Pace,
    Path,
    PathTable,
    Record,
    Result,
    connectivity,
    record_after,
)
from kilim.agent.health.endpoint import HealthEndpoint
from kilim.agent.health.http import probe as probe_http
from kilim.agent.health.icmp import Echo
from kilim.agent.health.metrics import Latencies
from kilim.agent.health.sockets import Namespace, OwnNamespace
from kilim.model.address import format_ip, is_ipv6
from kilim.model.state import State

log = structlog.get_logger(__name__)

_TICK_S = 0.2
_TELL_S = 1.0  # at least from one summary to the next, as each goes through all nodes
_AT_ONCE = 32  # nodes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Of one moment, `at_s`."""

    at_s: float
    interval_s: float
    nodes: list[NodeConnectivity]


class Prober:
    """`state` gives the present one; `on_turn` is called after what is unreachable has changed or was probed again."""

    def __init__(
        self,
        node: str,
        node_ips: tuple[int, ...],
        state: Callable[[], State],
        endpoint: HealthEndpoint | None,
        port: int,
        pace: Pace,
        on_turn: Callable[[], None],
    ) -> None:
        self._state = state
        self._endpoint = endpoint
        self._port = port
        self._pace = pace
        self._on_turn = on_turn
        self._paths = PathTable(node, set(map(is_ipv6, node_ips)))
        self._followed: tuple[int, int] = (0, -1)
        self.latencies = Latencies()
        self._records: dict[Path, Record] = {}
        self._due_s: dict[str, float] = {}
        self._numbers: dict[str, int] = {}
        self._probing: set[str] = set()
        self._turned = False
        self._done = asyncio.Event()  # replaced at the end of each node's turn
        self._own = OwnNamespace()
        self._echoes: dict[tuple[bool, bool], Echo] = {}  # by (out of the endpoint, IPv6)

    def snapshot(self) -> Snapshot:
        now_s = asyncio.get_running_loop().time()
        return Snapshot(
            now_s, self._pace.interval_among(len(self._paths.of)), connectivity(self._paths.of, self._records)
        )

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as group:
                told_s = 0.0
                while True:
                    now_s = loop.time()
                    self._follow()
                    if self._turned and now_s - told_s >= _TELL_S:
                        self._turned, told_s = False, now_s
                        self._on_turn()
                    due = [name for name, at_s in self._due_s.items() if at_s <= now_s and name not in self._probing]
                    for name in sorted(due, key=self._due_s.__getitem__)[: _AT_ONCE - len(self._probing)]:
                        self._probing.add(name)
                        group.create_task(self._probe_node(name), name=f"probe {name}")
                    await asyncio.sleep(_TICK_S)
        finally:
            for echo in self._echoes.values():
                echo.close()

    async def probe_all(self, deadline_s: float) -> None:
        """Every node that is known now, now; returns when that is done or the time is up."""
        loop = asyncio.get_running_loop()
        asked_s = loop.time()
        self._follow()
        waiting = set(self._due_s)
        self._due_s = dict.fromkeys(self._due_s, asked_s)
        try:
            async with asyncio.timeout(deadline_s):
                while waiting := {name for name in waiting & self._due_s.keys() if not self._is_probed(name, asked_s)}:
                    await self._done.wait()
        except TimeoutError:
            pass

    def _is_probed(self, name: str, since_s: float) -> bool:
        records = [self._records.get(path) for path in self._paths.of.get(name, ())]
        return all(record is not None and record.probed_s >= since_s for record in records)

    def _follow(self) -> None:
        """New nodes are probed at once, and new paths of those that are known."""
        state = self._state()
        if self._followed == (id(state), state.seq):
            return
        self._followed = (id(state), state.seq)
        before = dict(self._paths.of)
        self._paths.follow(state)
        now_s = asyncio.get_running_loop().time()
        for name, paths in self._paths.of.items():
            if before.get(name) != paths:
                self._due_s[name] = now_s
        for name in before.keys() - self._paths.of.keys():
            self._due_s.pop(name, None)
        if before != self._paths.of:
            self._numbers = {name: number for number, name in enumerate(sorted(self._paths.of))}
            known = {path for paths in self._paths.of.values() for path in paths}
            self._records = {path: record for path, record in self._records.items() if path in known}
            self._turned = True

    async def _probe_node(self, name: str) -> None:
        paths = self._paths.of.get(name, ())
        try:
            results = await asyncio.gather(*map(self._probe, paths))
        finally:
            self._probing.discard(name)
        if self._paths.of.get(name) != paths:
            return  # it has changed meanwhile, and is due
        turned = False
        for path, result in zip(paths, results, strict=True):
            turned |= self._take(path, result)
            if not result.error:
                self.latencies.observe(path, is_ipv6(paths[0].ip), result.latency_s)
        records = [self._records[path] for path in paths]
        now_s = asyncio.get_running_loop().time()
        self._due_s[name] = self._pace.next_s(self._numbers[name], len(self._numbers), records, now_s)
        self._done.set()
        self._done = asyncio.Event()
        self._turned |= turned or any(record.reachability == UNREACHABLE for record in records)

    def _take(self, path: Path, result: Result) -> bool:
        """Whether the path has become reachable or unreachable."""
        before = self._records.get(path)
        after = self._records[path] = record_after(before, result)
        if before is not None and before.reachability == after.reachability:
            return False
        if after.reachability == UNREACHABLE:
            log.warning("unreachable", peer=path.node, path=path.words, ip=format_ip(path.ip), reason=after.error)
        elif before is not None and before.reachability == UNREACHABLE:
            log.info("reachable again", peer=path.node, path=path.words, ip=format_ip(path.ip))
        return True

    async def _probe(self, path: Path) -> Result:
        inside = path.endpoint and self._endpoint is not None and self._endpoint.is_up
        namespace: Namespace = self._endpoint.namespace if inside and self._endpoint is not None else self._own
        if path.protocol != ICMP:
            return await probe_http(namespace, path.ip, self._port, self._pace.timeout_s)
        key = (inside, is_ipv6(path.ip))
        if key not in self._echoes:
            self._echoes[key] = Echo(namespace, is_ipv6(path.ip))
        return await self._echoes[key].probe(path.ip, self._pace.timeout_s)
