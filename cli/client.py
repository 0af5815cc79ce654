"""Calls to the control plane: several servers behind one object, and plain words for what goes wrong.

1. The servers are tried in the order given; one that failed goes to the end of the list.
2. Not connected, UNAVAILABLE, no answer in time: the next one is asked. Every write may be repeated without harm.
3. Where a write was perhaps done by one and no other acknowledges it, the outcome is unknown, and is said to be.
4. A delete that was perhaps done and finds nothing the second time has deleted.
5. Anything else is an answer, and is not asked for twice.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click
import grpc

from kilim.cli.addresses import FORM, split_port, with_port
from kilim.cli.failure import BadUsage, Failure
from kilim.lab.outcome import Outcome, outcome_of, reason, unknown
from kilim.v1 import controlplane_pb2, controlplane_pb2_grpc
from kilim.v1.controlplane_pb2_grpc import LogStub

CONNECT_S = 2.0
CALL_S = 10.0
PARTS_S = 60.0
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_S * 1000)),  # also how long one attempt to connect may take
    ("grpc.enable_http_proxy", 0),
]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
Code = grpc.StatusCode
Make = Callable[[grpc.Channel], Any]


def server_option(function: F) -> F:
    return click.option(
        "--server",
        "servers",
        envvar="KILIM_SERVER",
        show_envvar=True,
        metavar="HOST:PORT[,…]",
        help="Control plane replicas, asked in turn. [default: those of the lab that is up, else 127.0.0.1:4260]",
    )(function)


def connect(servers: str | None) -> "Client":
    """The client for what `--server` said."""
    if servers is None:
        from kilim.lab.context import default_servers
        from kilim.lab.errors import BadInput

        try:
            return Client(default_servers())
        except BadInput as error:
            raise BadUsage(str(error)) from None
    return Client([_checked(server.strip()) for server in servers.split(",") if server.strip()])


def _checked(server: str) -> str:
    if server.startswith("unix:"):
        return server
    parts = split_port(server)
    if parts is None:
        raise BadUsage(f'--server: "{server}" must be {FORM}')
    return with_port(*parts)


class Client:
    def __init__(self, servers: Sequence[str]) -> None:
        if not servers:
            raise BadUsage("--server: must name at least one server")
        self._order = list(servers)
        self._channels: dict[str, grpc.Channel] = {}

    def resources(self, method: str, request: Any, timeout_s: float = CALL_S) -> Any:
        call = self._write if method in {"Apply", "Delete"} and not request.dry_run else self._read
        return call(controlplane_pb2_grpc.ResourcesStub, method, request, timeout_s)

    def cluster(self, method: str, request: Any, timeout_s: float = CALL_S) -> Any:
        call = self._write if method == "ChangeSetting" else self._read
        return call(controlplane_pb2_grpc.ClusterStub, method, request, timeout_s)

    def log(self, method: str, request: Any, timeout_s: float = CALL_S) -> Any:
        return self._read(LogStub, method, request, timeout_s)

    def read_log(self, request: Any) -> Iterator[Any]:
        """LogEntries."""
        return self.log_stream("ReadLog", request, lambda entry: int(entry.seq) + 1)

    def log_stream(self, method: str, request: Any, after: Callable[[Any], int]) -> Iterator[Any]:
        """Messages from `request.from_seq` on; goes on at another server when one breaks off, from the seq that
        `after` reads out of the last message."""
        failures: list[str] = []
        while True:
            server = self._order[0]
            try:
                stub = LogStub(self._channel(server))
                for message in getattr(stub, method)(request):
                    yield message
                    request.from_seq = after(message)
                    failures.clear()
                return
            except grpc.RpcError as error:
                if error.code() not in {Code.UNAVAILABLE, Code.CANCELLED}:
                    raise refusal(server, error) from None
                failures.append(f"{server} ({why_unavailable(error)})")
                self._last(server)
            if len(failures) >= len(self._order):
                raise _nobody(failures)

    def log_parts(self, method: str, request: Any, timeout_s: float = PARTS_S) -> list[Any]:
        """All messages of a stream that has an end, from one server."""
        return self._first_answer(lambda server: list(self._ask(server, LogStub, method, request, timeout_s)))

    def cluster_parts(self, method: str, request: Any, timeout_s: float = PARTS_S) -> list[Any]:
        """As `log_parts`."""
        stub = controlplane_pb2_grpc.ClusterStub
        return self._first_answer(lambda server: list(self._ask(server, stub, method, request, timeout_s)))

    def _read(self, stub: Make, method: str, request: Any, timeout_s: float) -> Any:
        return self._first_answer(lambda server: self._ask(server, stub, method, request, timeout_s))

    def _first_answer(self, ask: Callable[[str], T]) -> T:
        failures: list[str] = []
        for server in list(self._order):
            try:
                return ask(server)
            except grpc.RpcError as error:
                if error.code() not in {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED}:
                    raise refusal(server, error) from None
                failures.append(f"{server} ({why_unavailable(error)})")
            self._last(server)
        raise _nobody(failures)

    def _write(self, stub: Make, method: str, request: Any, timeout_s: float) -> Any:
        failures: list[str] = []
        perhaps = False
        for server in list(self._order):
            try:
                return self._ask(server, stub, method, request, timeout_s)
            except grpc.RpcError as error:
                outcome = outcome_of(error, perhaps)
                if perhaps and error.code() is Code.NOT_FOUND and (gone := self._gone(server, request, timeout_s)):
                    return gone
                if outcome is Outcome.ANSWER:
                    raise refusal(server, error) from None
                perhaps = perhaps or outcome is Outcome.PERHAPS
                failures.append(f"{server} ({why_unavailable(error, timeout_s)})")
            self._last(server)
        raise Failure(unknown(failures)) if perhaps else _nobody(failures)

    def _ask(self, server: str, stub: Make, method: str, request: Any, timeout_s: float) -> Any:
        return getattr(stub(self._channel(server)), method)(request, timeout=timeout_s)

    def _gone(self, server: str, request: Any, timeout_s: float) -> Any:
        """The answer to a delete that has been done before, None where it has not: all goes together, or nothing."""
        if not isinstance(request, controlplane_pb2.DeleteRequest):
            return None
        look = controlplane_pb2.DeleteRequest()
        look.CopyFrom(request)
        look.dry_run = look.ignore_not_found = True
        try:
            answer = self._ask(server, controlplane_pb2_grpc.ResourcesStub, "Delete", look, timeout_s)
        except grpc.RpcError:
            raise Failure(unknown([f"{server} does not say what is left"])) from None
        if any(result.action == "deleted" for result in answer.results):
            return None
        for result in answer.results:
            result.action = "deleted"
        return answer

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


def why_unavailable(error: grpc.RpcError, timeout_s: float | None = None) -> str:
    """gRPC says "failed to connect to all addresses; last error: UNKNOWN: ipv4:…: Failed to connect …: refused"."""
    if timeout_s is not None and error.code() is Code.DEADLINE_EXCEEDED:
        return f"no answer within {timeout_s:g} s"
    details = reason(error.details() or error.code().name.lower().replace("_", " "))
    if not details.startswith("failed to connect"):  # a server's own words, which may quote gRPC's about etcd
        return details
    return details.rpartition(": ")[2].lower()


def _nobody(failures: Sequence[str]) -> Failure:
    return Failure(f"no server can do this now; tried {', '.join(failures)}")


class Refused(Failure):
    """A server said no; `code` is gRPC's."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def refusal(server: str, error: grpc.RpcError) -> Refused:
    """What the user reads when a server said no."""
    code, details = error.code(), error.details() or ""
    if code is Code.UNIMPLEMENTED:
        return Refused(code, f"{server} does not know this call: is it of another version?")
    if code in {Code.UNKNOWN, Code.INTERNAL, Code.DATA_LOSS}:
        return Refused(code, f"{server} failed: {details or code.name}")
    if code is Code.DEADLINE_EXCEEDED:
        return Refused(code, f"{server} did not answer in time")
    return Refused(code, details or code.name.lower().replace("_", " "))
