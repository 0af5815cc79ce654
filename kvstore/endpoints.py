"""The members of one etcd cluster as we reach them: a channel each, which to ask next, which are failing.

Easy to get wrong: one channel over several addresses cannot be used. With pick_first a paused member is kept for ever,
with round_robin it stays in rotation and costs a timeout at every turn; TLS names are checked against one name only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import structlog

from kilim.etcd import rpc_pb2_grpc

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_AVOID_FIRST_S = 0.5
_AVOID_MOST_S = 8.0

_CHANNEL_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # etcd answers pings without a stream, and pings more often than every 5 s, with GOAWAY too_many_pings.
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    # gRPC's own back-off would grow to two minutes; ours is the health marking below.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1_500),
    ("grpc.max_reconnect_backoff_ms", 300),
    # Whether a write was sent twice is ours to know.
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM bytes. Without `ca` the system's authorities are trusted; `server_name` where the certificate names
    another than the host of the endpoint."""

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    server_name: str | None = None


def parse_endpoint(endpoint: str, *, tls: bool) -> tuple[str, bool]:
    """(`host:port`, whether over TLS) of `http://h:p`, `https://h:p` or `h:p`; the last follows `tls`."""
    scheme, separator, rest = endpoint.strip().rpartition("://")
    if separator and scheme not in ("http", "https"):
        raise ValueError(f"etcd endpoint {endpoint!r}: scheme must be http or https")
    if scheme == "http" and tls:
        raise ValueError(f"etcd endpoint {endpoint!r}: is plain http, but TLS was asked for")
    target = rest.rstrip("/")
    host, _, port = target.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"etcd endpoint {endpoint!r}: must be host:port, with http:// or https:// before it or not")
    return target, scheme == "https" or (not separator and tls)


def _open_channel(target: str, secure: bool, tls: Tls) -> grpc.aio.Channel:
    options: list[tuple[str, int | str]] = list(_CHANNEL_OPTIONS)
    if not secure:
        return grpc.aio.insecure_channel(target, options=options)
    if tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
    return grpc.aio.secure_channel(target, credentials, options=options)


class Endpoint:
    """One member: its stubs, and since when it fails."""

    def __init__(self, name: str, target: str, channel: grpc.aio.Channel) -> None:
        self.name = name
        self.target = target
        self.channel = channel
        self.kv = rpc_pb2_grpc.KVStub(channel)
        self.watch = rpc_pb2_grpc.WatchStub(channel)
        self.lease = rpc_pb2_grpc.LeaseStub(channel)
        self.cluster = rpc_pb2_grpc.ClusterStub(channel)
        self.maintenance = rpc_pb2_grpc.MaintenanceStub(channel)
        self.auth = rpc_pb2_grpc.AuthStub(channel)
        self.failing_since: float | None = None
        self.avoid_until = 0.0
        self._avoid_s = _AVOID_FIRST_S

    def mark_failed(self, why: str) -> None:
        now = time.monotonic()
        if self.failing_since is None:
            self.failing_since = now
            log.warning("etcd endpoint lost", endpoint=self.name, reason=why)
        elif now >= self.avoid_until:
            self._avoid_s = min(self._avoid_s * 2, _AVOID_MOST_S)
        self.avoid_until = now + self._avoid_s

    def mark_answered(self) -> None:
        if self.failing_since is None:
            return
        outage_s = time.monotonic() - self.failing_since
        log.info("etcd endpoint regained", endpoint=self.name, outage_s=round(outage_s, 3))
        self.failing_since = None
        self.avoid_until = 0.0
        self._avoid_s = _AVOID_FIRST_S


class Endpoints:
    """Stays with one endpoint until it fails, so that a follower and its appends see the same member."""

    def __init__(self, endpoints: Sequence[str], tls: Tls | None) -> None:
        if not endpoints:
            raise ValueError("at least one etcd endpoint is needed")
        parsed = [(name, *parse_endpoint(name, tls=tls is not None)) for name in endpoints]
        self.all = [
            Endpoint(name, target, _open_channel(target, secure, tls or Tls())) for name, target, secure in parsed
        ]
        self._current = 0

    def choose(self) -> Endpoint:
        """The current one; where it is failing the next that is not; where all are, the one avoided longest."""
        now = time.monotonic()
        count = len(self.all)
        for step in range(count):
            index = (self._current + step) % count
            if self.all[index].avoid_until <= now:
                self._current = index
                return self.all[index]
        return min(self.all, key=lambda endpoint: endpoint.avoid_until)

    async def close(self) -> None:
        for endpoint in self.all:
            await endpoint.channel.close()
