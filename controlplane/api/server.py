"""The gRPC server: our services with health and reflection beside them, on every address that was asked for.

Easy to get wrong: health "" says that the process lives; the health of a service says whether it has read the log.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from kilim.controlplane.api.limits import MESSAGE_BYTES
from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import controlplane_pb2_grpc as rpc

SERVICE_NAMES = tuple(sorted(service.full_name for service in api.DESCRIPTOR.services_by_name.values()))
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    # Above some 1,000 that wait to be taken up, gRPC cancels calls at random; our own bound says why (`writer.Busy`).
    ("grpc.server.max_pending_requests", 1 << 14),
    ("grpc.server.max_pending_requests_hard_limit", 1 << 14),
    # A subscriber or an agent that is paused or cut off is noticed by its missing answers to pings.
    ("grpc.keepalive_time_ms", 3_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
)


class CannotListen(Exception):
    """An address cannot be bound."""


class Server:
    def __init__(
        self,
        resources: rpc.ResourcesServicer,
        nodes: rpc.NodesServicer,
        cluster: rpc.ClusterServicer,
        log: rpc.LogServicer,
    ) -> None:
        self._server = grpc.aio.server(options=_OPTIONS)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        rpc.add_ResourcesServicer_to_server(resources, self._server)
        rpc.add_NodesServicer_to_server(nodes, self._server)
        self._server.add_registered_method_handlers("kilim.v1.Nodes", _serialised_already(nodes))
        rpc.add_ClusterServicer_to_server(cluster, self._server)
        rpc.add_LogServicer_to_server(log, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)  # type: ignore[no-untyped-call]
        reflection.enable_server_reflection(  # type: ignore[no-untyped-call]
            (*SERVICE_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )

    async def start(self, listen: Iterable[str]) -> list[str]:
        """Returns the addresses with the ports that were bound. Raises CannotListen."""
        addresses = [self._bind(address) for address in listen]
        for name in SERVICE_NAMES:
            await self._health.set(name, _NOT_SERVING)
        await self._health.set("", _SERVING)
        await self._server.start()
        return addresses

    async def set_ready(self) -> None:
        for name in SERVICE_NAMES:
            await self._health.set(name, _SERVING)

    async def stop(self, grace_s: float) -> None:
        """No new calls; those under way have so long to end."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)

    def _bind(self, address: str) -> str:
        before = os.umask(0o177)  # a Unix socket is for its owner only
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise CannotListen(f"cannot listen on {address}: {error}") from error
        finally:
            os.umask(before)
        if address.startswith("unix:"):
            return address
        host, _, _ = address.rpartition(":")
        return f"{host}:{port}"


def ports_of(addresses: Iterable[str]) -> frozenset[int]:
    """Of those that `Server.start` returns."""
    return frozenset(int(each.rpartition(":")[2]) for each in addresses if not each.startswith("unix:"))


def _serialised_already(nodes: rpc.NodesServicer) -> dict[str, Any]:
    """In place of the generated ones: many are sent the same bytes, which are made once."""
    read = api.SubscribeRequest.FromString
    return {"Subscribe": grpc.unary_stream_rpc_method_handler(nodes.Subscribe, read, response_serializer=bytes)}
