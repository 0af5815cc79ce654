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
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.initial_reconnect_backoff_ms", 100)]

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


class NotConnected(Exception):
    """This server cannot be reached."""


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
        tries_left = len(self._order)
        while True:
            server, call = self._start_read_log(request)
            try:
                for entry in call:
                    yield entry
                    request.from_seq = entry.seq + 1
                    tries_left = len(self._order)
                return
            except grpc.RpcError as error:
                tries_left -= 1
                if error.code() not in {Code.UNAVAILABLE, Code.CANCELLED} or tries_left < 1:
                    raise refusal(server, error) from None
                self._last(server)

    def _start_read_log(self, request: Any) -> tuple[str, Any]:
        failures: list[str] = []
        for server in list(self._order):
            try:
                stub = controlplane_pb2_grpc.ClusterStub(self._channel(server))
                return server, stub.ReadLog(request)
            except NotConnected as error:
                failures.append(f"{server} ({error})")
                self._last(server)
        raise Failure(f"no server answers; tried {', '.join(failures)}")

    def _call(self, stub: Make, method: str, request: Any, timeout_s: float, writes: bool) -> Any:
        failures: list[str] = []
        for server in list(self._order):
            try:
                return getattr(stub(self._channel(server)), method)(request, timeout=timeout_s)
            except NotConnected as error:
                failures.append(f"{server} ({error})")
            except grpc.RpcError as error:
                if error.code() is Code.DEADLINE_EXCEEDED and writes:
                    raise Failure(_unknown(server, f"no answer within {timeout_s:g} s")) from None
                if error.code() not in {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED}:
                    raise refusal(server, error) from None
                failures.append(f"{server} ({error.details() or error.code().name})")
            self._last(server)
        raise Failure(f"no server answers; tried {', '.join(failures)}")

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


def open_channel(server: str, timeout_s: float = CONNECT_S) -> grpc.Channel:
    """A channel that is connected; raises `NotConnected`, at once where the other side refuses."""
    import threading

    channel = grpc.insecure_channel(server, options=OPTIONS)
    decided = threading.Event()
    states: list[grpc.ChannelConnectivity] = []

    def note(state: grpc.ChannelConnectivity) -> None:
        if state in {grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE}:
            states.append(state)
            decided.set()

    channel.subscribe(note, try_to_connect=True)
    decided.wait(timeout_s)
    channel.unsubscribe(note)
    if states[:1] == [grpc.ChannelConnectivity.READY]:
        return channel
    channel.close()
    raise NotConnected("cannot connect" if states else f"no connection within {timeout_s:g} s")


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
