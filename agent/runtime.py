"""The composition root of the agent: what it is made of, in which order it starts, how it ends.

  open the datapath · restore · cache: upserts only · attach · serve API and CNI · register · subscribe · in sync:
  compare once, with deletes
Easy to get wrong: nothing here belongs to the process, as many agents may run in one (with the datapath in memory).
"""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
import uvloop

from kilim.agent.api import AgentApi, serve_api
from kilim.agent.backoff import Backoff
from kilim.agent.cache import DiskCache
from kilim.agent.calls import Calls
from kilim.agent.datapath import Datapath, Neighbours
from kilim.agent.enforcement import Enforcement
from kilim.agent.inbox import Inbox
from kilim.agent.lock import hold_node
from kilim.agent.logs import configure_logs
from kilim.agent.memory import settle_memory
from kilim.agent.memory_tables import open_memory
from kilim.agent.metrics import AgentMetrics, MetricsServer
from kilim.agent.netlink.uplink import NoUnderlay
from kilim.agent.node_address import resolve_addresses
from kilim.agent.read_back import ReadBack
from kilim.agent.replica import Replica
from kilim.agent.reports import Reports, report_to
from kilim.agent.servers import ControlPlaneAway, Refused, Servers
from kilim.agent.settings import Settings
from kilim.agent.table_answers import answer_for_tables
from kilim.agent.threads import in_thread
from kilim.agent.uplink import Subscription
from kilim.agent.veth_datapath import open_veth
from kilim.v1 import controlplane_pb2 as pb

__all__ = ["Settings", "run"]

log = structlog.get_logger(__name__)

_CACHE_S = 0.5
_CACHE_RETRY_S = 2.0
_NODES_S = 0.5
_MISSES = 4


def run(settings: Settings) -> int:
    """Until SIGTERM or SIGINT: 0. Ends the process with status 1 where it cannot start."""
    configure_logs(settings.log_format, settings.log_level)
    try:
        uvloop.run(_main(settings))
    except (NoUnderlay, OSError, ValueError) as error:
        log.error("the agent cannot start", node=settings.node_name, reason=str(error))
        sys.exit(1)
    return 0


async def _main(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(settings, stop, settle_memory)


async def serve(settings: Settings, stop: asyncio.Event, when_synced: Callable[[], None] | None = None) -> None:
    """An agent until `stop` is set; any number of them in one loop where the datapath is in memory. `when_synced` is
    called when it has caught up with the log for the first time."""
    with hold_node(settings.run_dir):
        held: Sequence[int] | None = None
        while not stop.is_set():
            async with _open_datapath(settings, held) as (resolved, datapath):
                agent = Agent(resolved, datapath)
                await agent.start()
                await agent.run(stop, when_synced)
            held = resolved.node_ips


@asynccontextmanager
async def _open_datapath(settings: Settings, held: Sequence[int] | None) -> AsyncIterator[tuple[Settings, Datapath]]:
    """`held`: the node's addresses until now, where the underlay has changed, which may not be ready yet."""
    if settings.datapath_mode == "memory":
        async with open_memory() as in_memory:
            yield settings, in_memory
        return
    resolved = await resolve_addresses(settings, held)
    async with open_veth(resolved, given=bool(settings.node_ips)) as veth:
        yield resolved, veth


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()


class Agent:
    """All parts of one agent, wired."""

    def __init__(self, settings: Settings, datapath: Datapath) -> None:
        self._settings = settings
        self._datapath = datapath
        self._inbox = Inbox()
        self._reports = Reports()
        self._servers = Servers(settings.servers)
        self._calls = Calls(self._servers)
        self._cache = DiskCache(settings.state_dir)
        self._subscription = Subscription(settings.node_name, self._servers, self._inbox, self._position)
        cached = self._cache.load(settings.node_name)
        self._had_cache = cached is not None
        self.enforcement = Enforcement(
            cached or Replica(settings.node_name),
            self._inbox,
            self._cache,
            datapath.tables,
            datapath.ifindex_of,
            self._reports.publish,
            self._subscription.restart_from_scratch,
        )
        self.enforcement.routing_mode = settings.routing_mode
        self.read_back = ReadBack(self.enforcement, datapath.tables)

    async def start(self) -> None:
        """Enforce what we know, before anybody is asked anything."""
        started_at = time.monotonic()
        await self._datapath.restore(Neighbours(self.enforcement, self._calls, lambda: self._subscription.connected))
        if self._had_cache:
            self.enforcement.start_from_cache()
        log.info(
            "enforcing",
            node=self._settings.node_name,
            cached_seq=self.enforcement.enforced_seq,
            **self._datapath.attach(),
            ms=round((time.monotonic() - started_at) * 1000),
        )

    async def run(self, stop: asyncio.Event, when_synced: Callable[[], None] | None = None) -> None:
        datapath = self._datapath
        metrics = MetricsServer(
            self._settings.prometheus_serve_addr,
            AgentMetrics(
                self.enforcement,
                self._subscription,
                self.read_back,
                datapath.tables,
                datapath.counters,
                datapath.health,
            ),
        )
        try:
            metrics.start()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(each, name=name) for name, each in self._work(when_synced).items()]
                await _first_of(stop, datapath.moved)
                log.info("stopping; what is in the kernel stays", node=self._settings.node_name)
                for task in tasks:
                    task.cancel()
        finally:
            await metrics.stop()
            self._cache.close()
            await self._servers.close()

    def _work(self, when_synced: Callable[[], None] | None) -> dict[str, Coroutine[Any, Any, None]]:
        datapath, node = self._datapath, self._settings.node_name
        api = AgentApi(
            self.enforcement,
            self._subscription,
            datapath.flows,
            datapath.tables,
            datapath.counters,
            datapath.health,
            datapath.connections,
        )
        work = {
            "enforcement": self.enforcement.run(),
            "api": serve_api(self._settings.run_dir / "agent.sock", api),
            "subscription": self._subscribe(),
            "cache": self._keep_cache(),
            "read back": self.read_back.run(),
        }
        work |= datapath.work()
        for server in self._servers.all:
            work[f"reports to {server.address}"] = report_to(server, self._reports)
            work[f"tables for {server.address}"] = answer_for_tables(server, node, self.read_back)
        if when_synced is not None:
            work["synced"] = self._tell_synced(when_synced)
        return work

    def _position(self) -> tuple[int, bytes]:
        return self.enforcement.position()

    async def _subscribe(self) -> None:
        await asyncio.gather(self._register_node(), self._subscription.run())

    async def _register_node(self) -> None:
        settings, backoff = self._settings, Backoff(0.1, 2.0)
        request = pb.RegisterNodeRequest(
            name=settings.node_name,
            ip=settings.node_ip,
            ipv6=settings.node_ipv6,
            pod_cidrs=list(settings.pod_cidrs),
            labels=dict(settings.node_labels),
        )
        while True:
            try:
                answer = await self._calls.register_node(request)
            except ControlPlaneAway as error:
                log.debug("the node is not registered yet", reason=str(error))
            except Refused as error:
                self.enforcement.errors["node"] = f"the control plane refused this node: {error}"
                log.error("the control plane refused this node", reason=str(error))
            else:
                self.enforcement.errors.pop("node", None)
                log.info("registered", node=settings.node_name, pod_cidrs=list(answer.pod_cidrs), seq=answer.seq)
                backoff.reset()
                await self._be_forgotten()
                log.warning("the log has lost this node; registering again", node=settings.node_name)
            await asyncio.sleep(backoff.next_s())

    async def _be_forgotten(self) -> None:
        """Until the log has no such node any more: somebody removed it, or the log is another one now."""
        missing = 0
        while missing < _MISSES:  # what was just registered may still be on its way
            await asyncio.sleep(_NODES_S)
            known = self._settings.node_name in self.enforcement.replica.state.nodes
            sure = self.enforcement.in_sync and self._subscription.connected
            missing = missing + 1 if sure and not known else 0

    async def _keep_cache(self) -> None:
        while True:
            await asyncio.sleep(_CACHE_S)
            if self._cache.wants_rewrite and self.enforcement.replica.seq:
                try:
                    frozen = self._cache.freeze(self.enforcement.replica)
                    await in_thread(partial(self._cache.rewrite, frozen))
                except OSError as error:
                    self.enforcement.note("cache", f"cache: {error}")
                    await asyncio.sleep(_CACHE_RETRY_S)
                else:
                    self.enforcement.note("cache", "")

    async def _tell_synced(self, when_synced: Callable[[], None]) -> None:
        await self.enforcement.synced.wait()
        when_synced()
