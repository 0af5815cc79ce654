"""Calls to the control plane: several servers behind one object, and plain words for what goes wrong.

1. The servers are tried in the order given; one that failed goes to the end of the list.
2. Not connected, or UNAVAILABLE: surely not applied or harmless to repeat, so the next one is asked.
3. A connected server that lets the deadline pass: a read is tried elsewhere; of a write the outcome is unknown.
4. Anything else is an answer, and is not asked for twice.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click
import grpc

from kilim.cli.failure import BadUsage, Failure
from kilim.v1 import controlplane_pb2_grpc

CONNECT_S = 2.0
CALL_S = 10.0
OUTCOME_UNKNOWN = "outcome unknown"
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_S * 1000)),  # also how long one attempt to connect may take
]

F = TypeVar("F", bound=Callable[..., Any])
Code = grpc.StatusCode
Make = Callable[[grpc.Channel], Any]


def server_option(function: F) -> F:
    return click.option(
        "--server",
        "servers",
        envvar="KILIM_SERVER",
        metavar="HOST:PORT[,…]",
        help="Control plane replicas, asked in turn. [default: those of the lab that is up, else 127.0.0.1:4260]",
    )(function)


def connect(servers: str | None) -> "Client":
    """The client for what `--server` said."""
    if servers is None:
        from kilim.lab.context import default_servers

        return Client(default_servers())
    return Client([_checked(server.strip()) for server in servers.split(",") if server.strip()])


def _checked(server: str) -> str:
    host, _, port = server.rpartition(":")
    if server.startswith("unix:") or (host and port.isdecimal() and 0 < int(port) < 65536):
        return server
    raise BadUsage(f'--server: "{server}" must be HOST:PORT')


class Client:
    def __init__(self, servers: Sequence[str]) -> None:
        if not servers:
            raise BadUsage("--server: must name at least one server")
        self._order = list(servers)
        self._channels: dict[str, grpc.Channel] = {}

    def resources(self, method: str, request: Any, timeout_s: float = CALL_S) -> Any:
        writes = method in {"Apply", "Delete"}
        return self._call(controlplane_pb2_grpc.ResourcesStub, method, request, timeout_s, writes)

    def cluster(self, method: str, request: Any, timeout_s: float = CALL_S) -> Any:
        writes = method == "ChangeSetting"
        return self._call(controlplane_pb2_grpc.ClusterStub, method, request, timeout_s, writes)

    def read_log(self, request: Any) -> Iterator[Any]:
        """LogEntries; goes on at another server after the last entry seen when one breaks off."""
        failures: list[str] = []
        while True:
            server = self._order[0]
            try:
                for entry in controlplane_pb2_grpc.ClusterStub(self._channel(server)).ReadLog(request):
                    yield entry
                    request.from_seq = entry.seq + 1
                    failures.clear()
                return
            except grpc.RpcError as error:
                if error.code() not in {Code.UNAVAILABLE, Code.CANCELLED}:
                    raise refusal(server, error) from None
                failures.append(f"{server} ({why_unavailable(error)})")
                self._last(server)
            if len(failures) >= len(self._order):
                raise _nobody(failures)

    def _call(self, stub: Make, method: str, request: Any, timeout_s: float, writes: bool) -> Any:
        failures: list[str] = []
        for server in list(self._order):
            try:
                return getattr(stub(self._channel(server)), method)(request, timeout=timeout_s)
            except grpc.RpcError as error:
                if error.code() is Code.DEADLINE_EXCEEDED and writes:
                    raise Failure(_unknown(server, f"no answer within {timeout_s:g} s")) from None
                if error.code() not in {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED}:
                    raise refusal(server, error) from None
                failures.append(f"{server} ({why_unavailable(error)})")
            self._last(server)
        raise _nobody(failures)

    def _last(self, server: str) -> None:
        self._order.remove(server)
        self._order.append(server)
        channel = self._channels.pop(server, None)
        if channel is not None:
            channel.close()

    def _channel(self, server: str) -> grpc.Channel:
        if server not in self._channels:
            self._channels[server] = open_channel(server)
        return self._channels[server]


def open_channel(server: str) -> grpc.Channel:
    """Connects when it is first used, for at most CONNECT_S; then the call fails with UNAVAILABLE."""
    return grpc.insecure_channel(server, options=OPTIONS)


def why_unavailable(error: grpc.RpcError) -> str:
    """gRPC says "failed to connect to all addresses; last error: UNKNOWN: ipv4:…: Failed to connect …: refused"."""
    details = str(error.details() or error.code().name.lower().replace("_", " "))
    _, connecting, last = details.partition("last error: ")
    return last.rpartition(": ")[2].lower() if connecting else details


def _nobody(failures: Sequence[str]) -> Failure:
    return Failure(f"no server can do this now; tried {', '.join(failures)}")


def refusal(server: str, error: grpc.RpcError) -> Failure:
    """What the user reads when a server said no."""
    code, details = error.code(), error.details() or ""
    if OUTCOME_UNKNOWN in details.lower():
        return Failure(_unknown(server, details))
    if code is Code.UNIMPLEMENTED:
        return Failure(f"{server} does not know this call: is it of another version?")
    if code in {Code.UNKNOWN, Code.INTERNAL, Code.DATA_LOSS}:
        return Failure(f"{server} failed: {details or code.name}")
    if code is Code.DEADLINE_EXCEEDED:
        return Failure(f"{server} did not answer in time")
    return Failure(details or code.name.lower().replace("_", " "))


def _unknown(server: str, why: str) -> str:
    text = why if OUTCOME_UNKNOWN in why.lower() else f"{OUTCOME_UNKNOWN}: {why}"
    return f"{server}: {text}; it may or may not have been applied, and repeating the command is harmless"
