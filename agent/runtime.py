"""The composition root of the agent: what it is made of, in which order it starts, how it ends.

  load objects (running programs stay) · read kernel rows · restore links · cache: upserts only · take over the links ·
  serve CNI and API · register · subscribe · in sync: compare once, with deletes
Easy to get wrong: nothing is detached or unpinned at the end; enforcement goes on without us.
"""

import asyncio
import signal
import sys
import time

import structlog
import uvloop

from kilim.agent.api import AgentApi, serve_api
from kilim.agent.backoff import Backoff
from kilim.agent.bpf.datapath import Datapath, load_objects
from kilim.agent.bpf.datapath import Settings as DatapathSettings
from kilim.agent.cache import DiskCache
from kilim.agent.calls import Calls
from kilim.agent.cni.server import CniServer
from kilim.agent.core.node_routes import plan_node_routes
from kilim.agent.enforcement import Enforcement
from kilim.agent.flows import Flows
from kilim.agent.inbox import Inbox
from kilim.agent.inventory import Inventory, NodeFacts
from kilim.agent.logs import configure_logs
from kilim.agent.memory import settle_memory
from kilim.agent.netlink.node import OVERLAY_BYTES, NodeDevices, NoUnderlay, apply_node_devices
from kilim.agent.netlink.node_routes import apply_node_routes
from kilim.agent.netlink.session import NetlinkSession
from kilim.agent.netlink.veth import PodLinks
from kilim.agent.pods import Pods
from kilim.agent.replica import Replica
from kilim.agent.reports import Reports, report_to
from kilim.agent.servers import ControlPlaneAway, Refused, Servers
from kilim.agent.settings import Settings
from kilim.agent.uplink import Subscription
from kilim.model.address import parse_ip
from kilim.v1 import controlplane_pb2 as pb

__all__ = ["Settings", "run"]

log = structlog.get_logger(__name__)

_STALE_EVERY_S = 10.0
_REPAIR_EVERY_S = 60.0
_REPAIR_SHARE = 500  # reading back 100,000 rows takes 0.3 s, in which nothing else happens
_RETRY_S = 2.0
_SWEEP_S = 0.1
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
    await serve(settings, stop)


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """An agent until `stop` is set."""
    session = NetlinkSession()
    try:
        node_ip = parse_ip(settings.node_ip)
        devices = await apply_node_devices(session, node_ip, settings.tunnel_port, settings.mtu)
        datapath = load_objects(
            DatapathSettings(
                node_ip=node_ip,
                underlay_ifindex=devices.underlay_ifindex,
                tunnel_ifindex=devices.tunnel_ifindex,
                tunnel_port=settings.tunnel_port,
                attach=settings.datapath_attach,
            ),
            settings.bpf_root,
        )
        try:
            agent = Agent(settings, session, devices, datapath)
            await agent.start()
            await agent.run(stop)
        finally:
            datapath.close()
    finally:
        await session.close()


class Agent:
    """All parts of one agent, wired."""

    def __init__(self, settings: Settings, session: NetlinkSession, devices: NodeDevices, datapath: Datapath) -> None:
        self._settings = settings
        self._session = session
        self._devices = devices
        self._datapath = datapath
        self._ifindex_of: dict[int, int] = {}
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
            self._ifindex_of,
            self._reports.publish,
            self._subscription.restart_from_scratch,
        )
        facts = NodeFacts(
            settings.node_name, parse_ip(settings.node_ip), devices.mtu, devices.mtu - OVERLAY_BYTES, settings.pod_cidrs
        )
        inventory = Inventory(facts, lambda: self.enforcement.replica, self._ifindex_of)
        self._pods = Pods(
            inventory,
            PodLinks(session),
            datapath,
            self._calls,
            self.enforcement,
            datapath.tables,
            lambda: self._subscription.connected,
        )
        self._flows = Flows(datapath.events)

    async def start(self) -> None:
        """Enforce what we know, before anybody is asked anything."""
        started_at = time.monotonic()
        await self._pods.restore()
        if self._had_cache:
            self.enforcement.start_from_cache()
        self._datapath.attach_overlay(self._devices.tunnel_ifindex)
        self._datapath.attach_netdev(self._devices.underlay_ifindex)
        self._pods.attach_restored()
        log.info(
            "enforcing",
            node=self._settings.node_name,
            cached_seq=self.enforcement.enforced_seq,
            pods=len(self._ifindex_of),
            underlay=self._devices.underlay_name,
            attached_by=self._datapath.attach_mode,
            ms=round((time.monotonic() - started_at) * 1000),
        )

    async def run(self, stop: asyncio.Event) -> None:
        run_dir = self._settings.run_dir
        api = AgentApi(
            self.enforcement, self._subscription, self._flows, self._datapath.tables, self._datapath.counters
        )
        work = {
            "enforcement": self.enforcement.run(),
            "cni": CniServer(run_dir / "cni.sock", self._pods).run(),
            "api": serve_api(run_dir / "agent.sock", api),
            "subscription": self._subscribe(),
            "flows": self._flows.run(),
            "cache": self._keep_cache(),
            "sweep": self._sweep(),
            "memory": self._settle(),
            "repair": self._repair(),
            "stale endpoints": self._remove_stale(),
            "node routes": self._follow_nodes(),
        }
        work |= {f"reports to {server.address}": report_to(server, self._reports) for server in self._servers.all}
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(each, name=name) for name, each in work.items()]
                await stop.wait()
                log.info("stopping; what is in the kernel stays", node=self._settings.node_name)
                for task in tasks:
                    task.cancel()
        finally:
            self._cache.close()
            await self._servers.close()

    def _position(self) -> tuple[int, bytes]:
        return self.enforcement.position()

    async def _subscribe(self) -> None:
        await asyncio.gather(self._register_node(), self._subscription.run())

    async def _register_node(self) -> None:
        settings, backoff = self._settings, Backoff(0.1, 2.0)
        request = pb.RegisterNodeRequest(
            name=settings.node_name, ip=settings.node_ip, pod_cidrs=list(settings.pod_cidrs)
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
                    await asyncio.to_thread(self._cache.rewrite, frozen)
                except OSError as error:
                    self.enforcement.note("cache", f"cache: {error}")
                    await asyncio.sleep(_CACHE_RETRY_S)
                else:
                    self.enforcement.note("cache", "")

    async def _settle(self) -> None:
        await self.enforcement.synced.wait()
        settle_memory()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                self._datapath.tables.sweep()
            except OSError as error:
                log.warning("retired rows of policy could not be deleted", reason=error.strerror or str(error))

    async def _repair(self) -> None:
        next_at = time.monotonic() + _REPAIR_EVERY_S
        while True:
            await asyncio.sleep(_RETRY_S)
            started_at = time.monotonic()
            if started_at >= next_at or "kernel" in self.enforcement.errors:
                self.enforcement.repair()
                took_s = time.monotonic() - started_at
                next_at = time.monotonic() + max(_REPAIR_EVERY_S, took_s * _REPAIR_SHARE)

    async def _follow_nodes(self) -> None:
        applied: tuple[dict[str, bytes], bool] | None = None
        while True:
            nodes, in_sync = self.enforcement.replica.state.nodes, self.enforcement.in_sync
            if applied != (nodes.data, in_sync):
                applied = (dict(nodes.data), in_sync)
                wanted = plan_node_routes(nodes.values(), self._settings.node_name)
                node_ip = parse_ip(self._settings.node_ip)
                try:
                    beyond = await apply_node_routes(
                        self._session, wanted, self._devices.underlay_ifindex, node_ip, in_sync
                    )
                except OSError as error:
                    log.warning("routes to other nodes' pods could not be written", reason=str(error))
                else:
                    if beyond:
                        log.warning(
                            "this node itself does not reach pods of nodes that are no neighbours", cidrs=beyond
                        )
            await asyncio.sleep(_NODES_S)

    async def _remove_stale(self) -> None:
        await self.enforcement.synced.wait()
        while True:
            try:
                if removed := await self._pods.remove_stale():
                    log.info("endpoints without a container removed from the log", count=removed)
            except OSError as error:
                log.warning("the node's links could not be read", reason=str(error))
            await asyncio.sleep(_STALE_EVERY_S)
