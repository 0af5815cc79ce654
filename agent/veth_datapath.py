"""The datapath of a node with a kernel: pods on veth pairs, BPF programs at their host sides, CNI on a socket.

  load objects (running programs stay) · read kernel rows · restore links · [rows of the cache] · take over the links
Easy to get wrong: nothing is detached or unpinned at the end; enforcement goes on without us.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from math import ceil
from typing import Any

import structlog

from kilim.agent.bpf.counters import Counted
from kilim.agent.bpf.datapath import Datapath as BpfDatapath
from kilim.agent.bpf.datapath import Settings as BpfSettings
from kilim.agent.bpf.datapath import load_objects
from kilim.agent.bpf.ipmasq import write_exempt_cidrs
from kilim.agent.bpf.node_addresses import write_node_addresses
from kilim.agent.bpf.syscall import wait_for_programs
from kilim.agent.cni.server import CniServer
from kilim.agent.connections import Connections
from kilim.agent.datapath import DatapathTables, Neighbours
from kilim.agent.enforcement import Enforcement
from kilim.agent.flows import Flows
from kilim.agent.health.health import Health
from kilim.agent.inventory import Inventory, NodeFacts
from kilim.agent.ip_masq import ExemptCidrs
from kilim.agent.lock import hold_namespace
from kilim.agent.netlink.node import NodeDevices, apply_node_devices, mtu_of, remove_tunnel
from kilim.agent.netlink.session import NetlinkSession
from kilim.agent.netlink.veth import PodLinks
from kilim.agent.node_address import AddressWatch
from kilim.agent.node_addresses import NodeAddresses
from kilim.agent.node_routes import NodeRoutes
from kilim.agent.pod_namespaces import PodNamespaces
from kilim.agent.pods import Pods
from kilim.agent.settings import Settings
from kilim.model.address import is_ipv6

log = structlog.get_logger(__name__)

_STALE_EVERY_S = 10.0
_SWEEP_S = 0.1
_DEPARTED_S = 5.0  # who is given such an address does not wait for this
_SHARE = 20  # of the time that it takes, until the next


@asynccontextmanager
async def open_veth(settings: Settings, given: bool = True) -> AsyncIterator["VethDatapath"]:
    """`given`: whether the node's addresses are not to be looked for. Raises NoUnderlay, Held, OSError."""
    with hold_namespace():
        async with _opened(settings, given) as datapath:
            yield datapath


@asynccontextmanager
async def _opened(settings: Settings, given: bool) -> AsyncIterator["VethDatapath"]:
    session = NetlinkSession()
    try:
        tunnel_port = settings.tunnel_port if settings.routing_mode == "tunnel" else 0
        devices = await apply_node_devices(session, settings.node_ips, tunnel_port, settings.mtu, settings.devices)
        by_family = {is_ipv6(ip): ip for ip in settings.node_ips}
        bpf = load_objects(
            BpfSettings(
                node_ip=by_family.get(False, 0),
                node_ipv6=by_family.get(True, 0),
                underlay_ifindex=devices.underlay.ifindex,
                tunnel_ifindex=devices.tunnel_ifindex,
                tunnel_port=tunnel_port,
                ct_max_entries=settings.bpf_ct_global_max,
                ct_life_tcp_s=ceil(settings.bpf_ct_timeout_regular_tcp_s),
                ct_life_syn_s=ceil(settings.bpf_ct_timeout_regular_tcp_syn_s),
                ct_life_closing_s=ceil(settings.bpf_ct_timeout_regular_tcp_fin_s),
                ct_life_other_s=ceil(settings.bpf_ct_timeout_regular_any_s),
                nat_max_entries=settings.bpf_nat_global_max,
                fragments_max_entries=settings.bpf_fragments_map_max,
                masquerade_ipv4=settings.enable_ipv4_masquerade,
                masquerade_ipv6=settings.enable_ipv6_masquerade,
                masquerade_exempts=settings.enable_ipv4_masquerade or settings.enable_ipv6_masquerade,
                sockops=settings.sockops_enable,
                attach=settings.datapath_attach,
            ),
            settings.bpf_root,
        )
        datapath = VethDatapath(settings, session, devices, bpf, given)
        try:
            yield datapath
        finally:
            await datapath.connections.end()
            bpf.close()
    finally:
        await session.close()


class VethDatapath:
    """`restore` is called once, before anything else."""

    _pods: Pods
    _enforcement: Enforcement

    def __init__(
        self, settings: Settings, session: NetlinkSession, devices: NodeDevices, bpf: BpfDatapath, given: bool
    ) -> None:
        self._settings = settings
        self._session = session
        self._devices = devices
        self._bpf = bpf
        self.ifindex_of: dict[int, int] = {}
        self.flows = Flows(bpf.events)
        self._exempt = ExemptCidrs(
            settings,
            lambda cidrs, alone: write_exempt_cidrs(bpf.maps["ipmasq"], cidrs, alone),
            lambda: (self._enforcement.replica.state.nodes, self._enforcement.in_sync),
        )
        self._watch = AddressWatch(
            session,
            devices.underlay,
            settings.devices,
            given,
            self._tell_address,
            lambda underlay: mtu_of(underlay, settings.routing_mode == "tunnel", settings.mtu),
        )
        self.moved = self._watch.moved
        self._addresses = NodeAddresses(session, lambda ips: write_node_addresses(bpf.maps["node_addresses"], ips))
        self.health: Health | None = None
        self.connections = Connections(bpf.maps, settings.conntrack_gc_interval_s, settings.conntrack_gc_max_interval_s)

    @property
    def tables(self) -> DatapathTables:
        return self._bpf.tables

    def counters(self) -> list[Counted]:
        return self._bpf.counters()

    async def restore(self, neighbours: Neighbours) -> None:
        settings, devices = self._settings, self._devices
        enforcement = self._enforcement = neighbours.enforcement
        facts = NodeFacts(
            settings.node_name, settings.node_ips, devices.mtu, devices.mtu - devices.overlay_bytes, settings.pod_cidrs
        )
        inventory = Inventory(facts, lambda: enforcement.replica, self.ifindex_of)
        links, tables = PodLinks(self._session), self._bpf.tables
        self._pods = Pods(
            inventory,
            links,
            self._bpf,
            neighbours.calls,
            enforcement,
            tables,
            self.connections,
            neighbours.connected,
            PodNamespaces(self._bpf.sockops),
        )
        if settings.enable_health_checking:
            self.health = Health(settings, enforcement, inventory, self._pods)
        await self._pods.restore()
        await self._addresses.apply()

    def attach(self) -> Mapping[str, object]:
        self._exempt.apply()
        self._bpf.begin_takeover()
        if self._devices.tunnel_ifindex:
            self._bpf.attach_overlay(self._devices.tunnel_ifindex)
        underlay = self._devices.underlay
        self._bpf.attach_netdevs(underlay.ifindex, underlay.others)
        self._pods.attach_restored()
        self._attach_sockops()
        self._bpf.end_takeover()
        return {
            "pods": len(self.ifindex_of),
            "underlay": self._devices.underlay.name,
            "routing_mode": self._settings.routing_mode,
            "attached_by": self._bpf.attach_mode,
            **({"sockops": True} if self._settings.sockops_enable else {}),
            **({"moved_rows": dict(self._bpf.moved_rows)} if self._bpf.moved_rows else {}),
            **({"maps_anew": list(self._bpf.maps_anew)} if self._bpf.maps_anew else {}),
        }

    def _attach_sockops(self) -> None:
        """Nothing depends on it."""
        try:
            self._bpf.attach_sockops(self._settings.cgroup_root)
        except OSError as error:
            reason = error.strerror or str(error)
            self._enforcement.note("sockops", f"connections within the node are not accelerated: {reason}")
            log.error("connections within the node are not accelerated", reason=reason)

    def work(self) -> dict[str, Coroutine[Any, Any, None]]:
        health = self.health.work() if self.health is not None else {}
        enforcement = self._enforcement
        routes = NodeRoutes(
            self._settings,
            self._session,
            self._devices.underlay.ifindex,
            lambda: (enforcement.replica.state.nodes, enforcement.in_sync),
        )
        return health | {
            "cni": CniServer(self._settings.run_dir / "cni.sock", self._pods).run(),
            "flows": self.flows.run(),
            "exempt CIDRs": self._exempt.follow(),
            "sweep": self._sweep(),
            "conntrack gc": self.connections.run(),
            "departed endpoints": self._clear_departed(),
            "stale endpoints": self._remove_stale(),
            "node address": self._watch.follow(),
            "addresses of the node": self._addresses.follow(),
            "node routes": routes.follow(),
            "former tunnel": self._remove_former_tunnel(),
        }

    def _tell_address(self, wrong: str) -> None:
        self._enforcement.note("address", wrong)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            tables = self._bpf.tables
            try:
                unsettled, due = tables.unsettled, tables.retired
                if unsettled or due:
                    await asyncio.to_thread(wait_for_programs)
                    tables.settle(unsettled)
                    tables.sweep(due)
            except OSError as error:
                log.warning("retired rows of policy could not be deleted", reason=error.strerror or str(error))

    async def _remove_former_tunnel(self) -> None:
        """Not before the log is here: until then other nodes may speak through it."""
        if self._devices.tunnel_ifindex:
            return
        await self._enforcement.synced.wait()
        try:
            self._bpf.detach_overlay()
            await remove_tunnel(self._session)
        except OSError as error:
            log.warning("the tunnel device of an agent before this one stays", reason=str(error))

    async def _clear_departed(self) -> None:
        wait_s = _DEPARTED_S
        while True:
            await asyncio.sleep(wait_s)
            started_s = time.monotonic()
            await self._pods.clear_departed()
            wait_s = max(_DEPARTED_S, _SHARE * (time.monotonic() - started_s))

    async def _remove_stale(self) -> None:
        await self._enforcement.synced.wait()
        while True:
            try:
                if removed := await self._pods.remove_stale():
                    log.info("endpoints without a container removed from the log", count=removed)
            except OSError as error:
                log.warning("the node's links could not be read", reason=str(error))
            await asyncio.sleep(_STALE_EVERY_S)
