"""The composition root of a replica: what it is started with, what it is made of, how it ends.

Easy to get wrong: it serves before it has reached etcd (status, health) and after it lost it (reads, subscriptions).
"""

import asyncio
import contextlib
import gc
import signal
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import uvloop

from kilim.controlplane.agreement import Agreement
from kilim.controlplane.api.cluster import Cluster
from kilim.controlplane.api.condition import Condition
from kilim.controlplane.api.log import Log
from kilim.controlplane.api.nodes import Nodes
from kilim.controlplane.api.peers import Peers
from kilim.controlplane.api.resources import Resources
from kilim.controlplane.api.server import CannotListen, Server, ports_of
from kilim.controlplane.api.subscription import Subscriptions
from kilim.controlplane.auditor import Auditor
from kilim.controlplane.compaction import Compaction
from kilim.controlplane.counters import Counters
from kilim.controlplane.decide.pool import DEFAULT_IPV4, DEFAULT_IPV6, IPV4, IPV6, ClusterPool, check_pool
from kilim.controlplane.decide.view import Defaults
from kilim.controlplane.expiry import run_expiry
from kilim.controlplane.history import HELD_BYTES_MAX, History
from kilim.controlplane.keeper import KEEP_EVERY_S, Keeper
from kilim.controlplane.logs import configure_logs
from kilim.controlplane.metrics import MetricsServer, ReplicaMetrics
from kilim.controlplane.phases import PhasedWriter
from kilim.controlplane.replica import Replica
from kilim.controlplane.reports import Reports
from kilim.controlplane.store import Store
from kilim.controlplane.table_asks import TableAsks
from kilim.controlplane.writer import Writer
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.election import Election
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.errors import KvError, NoEtcd
from kilim.kvstore.log import EventLog
from kilim.kvstore.session import Session
from kilim.kvstore.snapshots import SnapshotStore

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

GRACE_S = 1.0
LEAVE_S = 1.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Either `etcd_endpoints` or `embedded_etcd` (a directory). `listen`: HOST:PORT or unix:PATH."""

    name: str
    etcd_endpoints: tuple[str, ...] = ()
    embedded_etcd: Path | None = None
    listen: tuple[str, ...] = ("127.0.0.1:4260",)
    advertise: str = ""  # HOST:PORT for other replicas; empty: the first of `listen`
    cluster: str = "default"
    cluster_pool_ipv4: ClusterPool = DEFAULT_IPV4
    cluster_pool_ipv6: ClusterPool = DEFAULT_IPV6
    log_format: str = "console"
    prometheus_serve_addr: str = ""  # HOST:PORT; empty: no metrics
    history_bytes: int = HELD_BYTES_MAX
    expiry_every_s: float = 10.0
    keep_every_s: float = KEEP_EVERY_S
    log_archive_dir: Path | None = None  # where events are written before they are trimmed

    def check(self) -> None:
        """Raises ValueError with the first rule that is broken."""
        if not self.name:
            raise ValueError("name: must not be empty")
        if bool(self.etcd_endpoints) == (self.embedded_etcd is not None):
            raise ValueError("etcd: exactly one of etcd endpoints and a directory for an embedded etcd is needed")
        if not self.listen:
            raise ValueError("listen: at least one address is needed")
        check_pool(IPV4, self.cluster_pool_ipv4)
        check_pool(IPV6, self.cluster_pool_ipv6)


def run(settings: Settings) -> int:
    """Until SIGTERM or SIGINT. Returns the exit status."""
    configure_logs(settings.log_format)
    gc.set_threshold(20_000, 20, 20)  # a thousand subscribers make garbage fast, and a full look takes 0.1 s
    return uvloop.run(_run_until_signal(settings))


async def _run_until_signal(settings: Settings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return await serve(settings, stop)


async def serve(settings: Settings, stop: asyncio.Event, started: Callable[[list[str]], None] | None = None) -> int:
    """A replica until `stop` is set; `started` is told the addresses that are served. Returns the exit status."""
    try:
        settings.check()
        async with contextlib.AsyncExitStack() as stack:
            endpoints: Sequence[str] = settings.etcd_endpoints
            if settings.embedded_etcd is not None:
                endpoints = (await stack.enter_async_context(EmbeddedEtcd(settings.embedded_etcd))).endpoints
            client = EtcdClient(endpoints)
            stack.push_async_callback(client.close)
            process = _Process(settings, client)
            stack.push_async_callback(process.metrics.stop)
            await process.run(stop, started)
    except (ValueError, CannotListen, NoEtcd) as error:
        _logger.error("replica cannot start", name=settings.name, error=str(error))
        return 1
    except Exception:
        _logger.exception("replica failed", name=settings.name)
        return 1
    return 0


class _Process:
    """All parts of one replica, wired."""

    def __init__(self, settings: Settings, client: EtcdClient) -> None:
        self._settings = settings
        self._log = EventLog(client, settings.cluster)
        self._snapshots = SnapshotStore(client, settings.cluster)
        self._session = Session(client, settings.cluster)
        self._election = Election(self._session, settings.name)
        self._store = Store(client)
        defaults = Defaults(settings.cluster, settings.cluster_pool_ipv4, settings.cluster_pool_ipv6)
        self._replica = Replica(defaults, History(settings.history_bytes))
        self._counters = Counters()
        self._writer = Writer(self._replica, self._log, self._store.why_not, self._counters)
        self._auditor = Auditor(self._replica)
        self._reports = Reports(self._replica, self._auditor)
        self._phased_writer = PhasedWriter(self._replica, self._writer, self._reports)
        self._subscriptions = Subscriptions(self._replica, self._log)
        self._keeper = Keeper(
            self._replica,
            self._log,
            self._snapshots,
            self._store,
            settings.cluster,
            settings.log_archive_dir,
            lambda: [*self._auditor.problems(), *self._agreement.problems()],
        )
        self._compaction = Compaction(self._keeper, self._snapshots, self._store)
        self._peers = Peers()
        self._agreement = Agreement(
            settings.name, self._replica, self._store, self._peers, lambda: self._keeper.manifests
        )
        self.metrics = self._metrics_server()

    async def run(self, stop: asyncio.Event, started: Callable[[list[str]], None] | None) -> None:
        name = self._settings.name
        condition = Condition(
            name,
            self._replica,
            self._auditor,
            self._agreement,
            self._reports,
            self._store,
            self._election,
            self._keeper,
            self._peers,
        )
        table_asks = TableAsks(self._reports)
        nodes = Nodes(self._phased_writer, self._subscriptions, self._reports, table_asks)
        server = Server(
            Resources(self._replica, self._phased_writer),
            nodes,
            Cluster(self._replica, self._phased_writer, self._reports, condition, table_asks),
            Log(
                self._replica,
                self._log,
                self._subscriptions.snapshots,
                self._snapshots,
                self._compaction,
                self._store.why_not,
            ),
        )
        await self.metrics.start()
        addresses = await server.start(self._settings.listen)
        nodes.ports = ports_of(addresses)
        condition.advertise = self._settings.advertise or addresses[0]
        self._session.announce(name, condition.advertise.encode())
        _logger.info("replica serves", name=name, listen=addresses, advertise=condition.advertise)
        if started is not None:
            started(addresses)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(work, name=what) for what, work in self._work(server).items()]
                await stop.wait()
                _logger.info("replica stops", name=name)
                await self._leave(server)
                for task in tasks:
                    task.cancel()
        finally:
            await server.stop(0)
            await self._peers.close()

    def _metrics_server(self) -> MetricsServer:
        collector = ReplicaMetrics(
            self._settings.name,
            self._replica,
            self._auditor,
            self._agreement,
            self._reports,
            self._subscriptions,
            self._store,
            self._keeper,
        )
        return MetricsServer(self._settings.prometheus_serve_addr, self._counters, collector)

    def _work(self, server: Server) -> dict[str, Coroutine[Any, Any, None]]:
        actor = f"controlplane:{self._settings.name}"
        return {
            "follow the log": self._replica.follow(self._log, self._snapshots),
            "append commands": self._writer.run(),
            "serve subscribers": self._subscriptions.run(),
            "hold the session": self._session.run(),
            "campaign": self._election.run(),
            "watch etcd": self._store.watch(),
            "watch the members": self._store.watch_members(self._session),
            "release identities": run_expiry(
                self._replica,
                self._phased_writer,
                lambda: self._election.is_leader,
                actor,
                self._settings.expiry_every_s,
            ),
            "keep the past in bounds": self._keeper.run(lambda: self._election.is_leader, self._settings.keep_every_s),
            "reckon table digests": self._auditor.run(),
            "compare with the other replicas": self._agreement.run(),
            "tell that we are ready": self._tell_ready(server),
        }

    async def _tell_ready(self, server: Server) -> None:
        await self._replica.wait_loaded()
        await server.set_ready()

    async def _leave(self, server: Server) -> None:
        """Streams end with UNAVAILABLE, so that agents go elsewhere; commands under way get their answers."""
        self._subscriptions.close()
        await server.stop(GRACE_S)
        with contextlib.suppress(TimeoutError, KvError):
            async with asyncio.timeout(LEAVE_S):
                await self._session.close()
