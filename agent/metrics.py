"""Metrics of an agent in Prometheus' form, over HTTP: our own, and Cilium's names where the meaning is the same.

Easy to get wrong: a scrape comes in a thread. The values are taken in the event loop, at one moment between two folds;
a loop that does not answer in time fails the scrape, as it should.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol
from wsgiref.simple_server import WSGIServer

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kilim.agent.enforcement import Enforcement
from kilim.agent.flows import Counted, lost_records
from kilim.agent.health.health import Health
from kilim.agent.read_back import ReadBack
from kilim.agent.records import AUDITED, DIRECTION_NAMES, FORWARDED, RECORDS_LOST, reason_name
from kilim.agent.uplink import Subscription
from kilim.model.tables import ROW_BYTES, Tables

log = structlog.get_logger(__name__)

_SCRAPE_S = 5.0
# Cilium's words for a reason, where they are not just Hubble's name in lower case.
_REASONS = {
    132: "Invalid source ip",
    134: "Invalid packet",
    135: "CT: Truncated or invalid header",
    137: "CT: Unknown L4 protocol",
    139: "Unsupported L3 protocol",
    151: "Stale or unroutable IP",
    155: "CT: Map insertion failed",
    157: "IP fragmentation not supported",
    181: "Policy denied by denylist",
    183: "Invalid VNI",
}


class Pressure(Protocol):
    def pressure(self) -> dict[str, float]:
        """By map how full it is, 0 to 1."""
        ...


class AgentMetrics(Collector):
    """Read when somebody asks; in the event loop."""

    def __init__(
        self,
        enforcement: Enforcement,
        subscription: Subscription,
        read_back: ReadBack,
        tables: Pressure,
        counters: Callable[[], Iterable[Counted]],
        health: Health | None = None,
    ) -> None:
        self._enforcement = enforcement
        self._subscription = subscription
        self._read_back = read_back
        self._tables = tables
        self._counters = counters
        self._health = health

    def collect(self) -> Iterable[Metric]:
        yield from self._of_the_log()
        yield from self._of_tables()
        yield from self._of_packets(list(self._counters()))
        if self._health is not None:
            yield from self._health.metrics()

    def _of_the_log(self) -> Iterable[Metric]:
        enforcement = self._enforcement
        replica, enforced_seq = enforcement.replica, enforcement.enforced_seq
        known_seq = max(replica.seq, self._subscription.head_seq)
        yield _gauge("kilim_log_seq", "Sequence number up to which the log is folded here.", replica.seq)
        yield _gauge("kilim_enforced_seq", "Sequence number up to which the log is enforced here.", enforced_seq)
        yield _gauge(
            "kilim_log_lag_events", "Events known of that are not enforced here.", max(known_seq - enforced_seq, 0)
        )
        yield _gauge("kilim_in_sync", "1: has caught up with the log since the start.", enforcement.in_sync)
        yield _gauge("kilim_connected", "1: follows the log of a replica.", self._subscription.connected)
        yield _gauge("cilium_endpoint", "Endpoints of this node.", len(replica.own_endpoints))
        yield _gauge("cilium_policy", "Policies in the log.", len(replica.state.policies))
        yield _gauge("cilium_nodes_all_num", "Nodes in the log.", len(replica.state.nodes))

    def _of_tables(self) -> Iterable[Metric]:
        enforcement, read_back = self._enforcement, self._read_back
        rows = GaugeMetricFamily("kilim_table_rows", "Rows that are desired on this node.", labels=["table"])
        repairs = CounterMetricFamily(
            "kilim_table_drift_repairs", "Rows found wrong in the kernel, and mended.", labels=["table"]
        )
        for table, count in _row_counts(enforcement.replica.tables).items():
            rows.add_metric([table], count)
            repairs.add_metric([table], enforcement.drift_repairs[table])
        yield rows
        yield repairs
        yield _gauge("kilim_read_back_seconds", "Time of a core that the last reading back took.", read_back.took_s)
        yield _gauge("kilim_read_back_period_seconds", "From one reading back to the next.", read_back.period_s())
        yield _gauge("kilim_read_back_seq", "What was enforced at the last reading back.", enforcement.kernel_seq)
        pressure = GaugeMetricFamily("cilium_bpf_map_pressure", "How full a map is, 0 to 1.", labels=["map_name"])
        for name, share in self._tables.pressure().items():
            pressure.add_metric([name], share)
        yield pressure

    def _of_packets(self, counted: list[Counted]) -> Iterable[Metric]:
        drops, drop_bytes = (_packets(f"cilium_drop_{what}", f"Dropped {of}.", "reason") for what, of in _UNITS)
        passed, passed_bytes = (_packets(f"cilium_forward_{what}", f"Forwarded {of}.") for what, of in _UNITS)
        audited, audited_bytes = (_packets(f"kilim_audit_{what}", f"{of}, by audit mode alone.") for what, of in _AUDIT)
        for each in counted:
            direction = DIRECTION_NAMES[each.direction & 1]
            if each.reason == FORWARDED:
                passed.add_metric([direction], each.packets)
                passed_bytes.add_metric([direction], each.bytes)
            elif each.reason == AUDITED:
                audited.add_metric([direction], each.packets)
                audited_bytes.add_metric([direction], each.bytes)
            elif each.reason != RECORDS_LOST:
                drops.add_metric([direction, _reason(each.reason)], each.packets)
                drop_bytes.add_metric([direction, _reason(each.reason)], each.bytes)
        yield from (drops, drop_bytes, passed, passed_bytes, audited, audited_bytes)
        lost = CounterMetricFamily("kilim_records_lost", "Records of packets that found no room in the ring.")
        lost.add_metric([], lost_records(counted))
        yield lost


_AUDIT = (("count", "Forwarded packets"), ("bytes", "Forwarded bytes"))
_UNITS = (("count", "packets"), ("bytes", "bytes"))


def _packets(name: str, documentation: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, documentation, labels=["direction", *labels])


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, value=float(value))


def _reason(number: int) -> str:
    return _REASONS.get(number) or reason_name(number).replace("_", " ").capitalize()


def _row_counts(tables: Tables) -> dict[str, int]:
    counts = (len(tables.ipcache), len(tables.endpoints), len(tables.subjects), sum(map(len, tables.policy.values())))
    return dict(zip(ROW_BYTES, counts, strict=True))


class _InLoop(Collector):
    """Asked in a scrape's thread, taken in the loop. Says nothing when it is registered, in the loop itself."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._loop = asyncio.get_running_loop()

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        async def take() -> list[Metric]:
            return list(self._collector.collect())

        return asyncio.run_coroutine_threadsafe(take(), self._loop).result(_SCRAPE_S)


class MetricsServer:
    """A registry of its own, as there may be several agents in a process. Without an address nothing is served."""

    def __init__(self, address: str, collector: Collector) -> None:
        self._address = address
        self._collector = collector
        self._server: WSGIServer | None = None

    def start(self) -> None:
        """Raises ValueError where the address cannot be bound."""
        if not self._address:
            return
        host, _, port = self._address.rpartition(":")
        registry = CollectorRegistry()
        registry.register(_InLoop(self._collector))
        ProcessCollector(namespace="cilium", registry=registry)
        try:
            self._server, _ = start_http_server(int(port), host.strip("[]"), registry)
        except (OSError, OverflowError) as error:
            raise ValueError(f"prometheus-serve-addr: cannot listen on {self._address}: {error}") from error
        log.info("metrics are served", address=f"{host}:{self._server.server_port}")

    async def stop(self) -> None:
        if self._server is not None:
            await asyncio.to_thread(self._server.shutdown)
            self._server.server_close()
