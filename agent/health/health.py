"""The health check of a node, put together: endpoint, answers, probes, and what is told of them."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

import structlog
from prometheus_client.core import Metric

from kilim.agent.backoff import Backoff
from kilim.agent.core.connectivity import Pace
from kilim.agent.enforcement import Enforcement
from kilim.agent.health.answers import health_of, summary_of
from kilim.agent.health.endpoint import Connects, HealthEndpoint
from kilim.agent.health.http import Responder
from kilim.agent.health.metrics import connectivity_metrics
from kilim.agent.health.prober import Prober
from kilim.agent.health.sockets import OwnNamespace
from kilim.agent.inventory import Inventory
from kilim.agent.settings import Settings
from kilim.model.address import format_ip
from kilim.v1 import agent_pb2 as pb

log = structlog.get_logger(__name__)

_PROBE_ALL_S = 25.0


class Health:
    """One per agent that checks the health of its cluster."""

    def __init__(self, settings: Settings, enforcement: Enforcement, inventory: Inventory, pods: Connects) -> None:
        self._settings = settings
        self._enforcement = enforcement
        port = settings.cluster_health_port
        self._endpoint = (
            HealthEndpoint(settings.node_name, inventory, pods, port)
            if settings.enable_endpoint_health_checking
            else None
        )
        self._prober = Prober(
            settings.node_name,
            settings.node_ips,
            lambda: enforcement.replica.state,
            self._endpoint,
            port,
            Pace(settings.health_probe_interval_s),
            self._tell,
        )

    def work(self) -> dict[str, Coroutine[Any, Any, None]]:
        work = {"health answers": self._answer(), "health probes": self._probe()}
        return work | ({"health endpoint": self._endpoint.run()} if self._endpoint is not None else {})

    def metrics(self) -> Iterable[Metric]:
        prober = self._prober
        return connectivity_metrics(self._settings.node_name, prober.snapshot().nodes, prober.latencies)

    async def answer(self, request: pb.HealthRequest) -> pb.HealthResponse:
        if request.probe:
            await self._prober.probe_all(_PROBE_ALL_S)
        ips = self._endpoint.ips if self._endpoint is not None else ()
        return health_of(self._settings.node_name, self._prober.snapshot(), ips)

    async def _probe(self) -> None:
        await self._enforcement.synced.wait()
        await self._prober.run()

    async def _answer(self) -> None:
        responder, backoff, port = Responder(), Backoff(0.5, 10.0), self._settings.cluster_health_port
        addresses = [format_ip(ip) for ip in self._settings.node_ips]
        try:
            while not responder.listens:
                try:
                    await responder.listen(OwnNamespace(), addresses, port)
                except OSError as error:
                    why = f"port {port}: {error.strerror or error}"
                    self._enforcement.note("health", f"health checks are not answered on {', '.join(addresses)}, {why}")
                    await asyncio.sleep(backoff.next_s())
            self._enforcement.note("health", "")
            await asyncio.get_running_loop().create_future()
        finally:
            responder.close()

    def _tell(self) -> None:
        self._enforcement.tell_health(summary_of(self._prober.snapshot()))
