"""Metrics of a replica in OpenMetrics, over HTTP: what `kilim status` says, as numbers.

Easy to get wrong: a scrape comes in a thread. The values are taken in the event loop, at one moment; a loop that does
not answer in time fails the scrape, as it should. A node or replica that has left has no series from then on.
"""

import asyncio
from collections.abc import Iterable
from wsgiref.simple_server import WSGIServer

import structlog
from prometheus_client import PlatformCollector, ProcessCollector, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kilim.controlplane.agreement import Agreement
from kilim.controlplane.api.subscription import Subscriptions
from kilim.controlplane.auditor import Auditor
from kilim.controlplane.compared import Compared
from kilim.controlplane.counters import Counters
from kilim.controlplane.keeper import Keeper
from kilim.controlplane.replica import Replica
from kilim.controlplane.reports import Reports
from kilim.controlplane.store import Store

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

SCRAPE_S = 5.0


class CannotServeMetrics(ValueError):
    """The address cannot be bound."""


class ReplicaMetrics(Collector):
    """Gauges, read when somebody asks."""

    def __init__(
        self,
        name: str,
        replica: Replica,
        auditor: Auditor,
        agreement: Agreement,
        reports: Reports,
        subscriptions: Subscriptions,
        store: Store,
        keeper: Keeper,
    ) -> None:
        self._name = name
        self._replica = replica
        self._auditor = auditor
        self._agreement = agreement
        self._reports = reports
        self._subscriptions = subscriptions
        self._store = store
        self._keeper = keeper

    def collect(self) -> Iterable[Metric]:
        state = self._replica.state
        yield _gauge("kilim_log_seq", "Sequence number up to which this replica has folded the log.", self._replica.seq)
        yield _gauge("kilim_log_first_seq", "The oldest event that etcd holds.", self._keeper.start.first_seq)
        yield _gauge(
            "kilim_snapshot_seq", "Sequence number of the newest snapshot in etcd; 0: none.", self._snapshot_seq
        )
        yield _gauge("kilim_subscribers", "Agents and others that follow the log here.", self._subscriptions.count)
        yield _gauge(
            "kilim_etcd_db_size_bytes",
            "Size of etcd's database file, of the largest member; 0: none answered.",
            max((status.db_bytes for status in self._store.statuses if not status.error), default=0),
        )
        yield self._digest_match()
        yield from self._lags()
        yield _gauge("kilim_nodes_all_num", "Nodes in the log.", len(state.nodes))
        yield _gauge("kilim_endpoint", "Endpoints in the log.", len(state.endpoints))
        yield _gauge("kilim_policy", "Policies in the log.", len(state.policies))
        identities = GaugeMetricFamily("kilim_identity", "Identities in the log.", labels=["type"])
        identities.add_metric(["cluster_local"], self._replica.view.local_numbers.taken)
        identities.add_metric(["cidr"], self._replica.view.cidr_numbers.taken)
        identities.add_metric(["node"], self._replica.view.node_numbers.taken)
        yield identities

    @property
    def _snapshot_seq(self) -> int:
        return max((manifest.seq for manifest in self._keeper.manifests), default=0)

    def _digest_match(self) -> Metric:
        family = GaugeMetricFamily(
            "kilim_digest_match",
            "Whether a node's or replica's digest is this replica's own (1) or not (0); absent while that is not "
            "known: not compared yet, the node down or silent, its kernel not read back for long.",
            labels=["peer", "what"],
        )
        own = Compared("")
        own.match, own.difference = self._replica.loaded or None, self._auditor.difference
        agreements = [(f"replica/{self._name}", "state", own.agrees)]
        agreements += [(f"replica/{name}", "state", each.agrees) for name, each in self._agreement.compared()]
        agreements += [(f"node/{name}", what, agrees) for name, what, agrees in self._reports.agreements()]
        for peer, what, agrees in agreements:
            if agrees is not None:
                family.add_metric([peer, what], float(agrees))
        return family

    def _lags(self) -> Iterable[Metric]:
        events = GaugeMetricFamily(
            "kilim_node_lag_events", "Events in the log that the node does not enforce yet.", labels=["node"]
        )
        seconds = GaugeMetricFamily(
            "kilim_node_lag_seconds", "Since when there is an event that the node does not enforce.", labels=["node"]
        )
        for node in sorted(self._replica.state.nodes):
            events.add_metric([node], max(self._replica.seq - self._reports.enforced_seq(node), 0))
            seconds.add_metric([node], self._reports.lag_s(node))
        yield from (events, seconds)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


class _InLoop(Collector):
    """What another collector gives, taken in the event loop."""

    def __init__(self, collector: Collector, loop: asyncio.AbstractEventLoop) -> None:
        self._collector = collector
        self._loop = loop

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        async def take() -> list[Metric]:
            return list(self._collector.collect())

        return asyncio.run_coroutine_threadsafe(take(), self._loop).result(SCRAPE_S)


class MetricsServer:
    """`start` binds or raises CannotServeMetrics; without an address there is nothing to do."""

    def __init__(self, address: str, counters: Counters, collector: Collector) -> None:
        self._address = address
        self._registry = counters.registry
        self._collector = collector
        self._server: WSGIServer | None = None

    async def start(self) -> None:
        if not self._address:
            return
        host, _, port = self._address.rpartition(":")
        self._registry.register(_InLoop(self._collector, asyncio.get_running_loop()))
        ProcessCollector(namespace="kilim", registry=self._registry)
        PlatformCollector(registry=self._registry)
        try:
            self._server, _ = start_http_server(int(port), host.strip("[]"), self._registry)
        except (OSError, OverflowError) as error:
            raise CannotServeMetrics(f"prometheus-serve-addr: cannot listen on {self._address}: {error}") from error
        _logger.info("metrics are served", address=f"{host}:{self._server.server_port}")

    async def stop(self) -> None:
        if self._server is not None:
            await asyncio.to_thread(self._server.shutdown)
            self._server.server_close()
