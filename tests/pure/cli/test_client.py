"""Failover of the client, against real gRPC servers on loopback."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from kilim.cli.client import Client, why_unavailable
from kilim.cli.failure import Failure
from kilim.v1 import controlplane_pb2 as pb
from kilim.v1 import controlplane_pb2_grpc

NOBODY = "127.0.0.1:1"
Handler = Callable[[Any, Any], Any]


class Replica(controlplane_pb2_grpc.ResourcesServicer, controlplane_pb2_grpc.ClusterServicer):
    """Does what the test says, and counts how often it was asked."""

    def __init__(self, handler: Handler) -> None:
        self.handler, self.asked = handler, 0

    def _answer(self, request: Any, context: Any) -> Any:
        self.asked += 1
        return self.handler(request, context)

    Apply = List = _answer

    def ReadLog(self, request: Any, context: Any) -> Iterator[pb.LogEntry]:
        self.asked += 1
        yield from self.handler(request, context)


@pytest.fixture
def start() -> Iterator[Callable[[Handler], tuple[str, Replica]]]:
    servers: list[grpc.Server] = []

    def start_one(handler: Handler) -> tuple[str, Replica]:
        server, replica = grpc.server(ThreadPoolExecutor(2)), Replica(handler)
        controlplane_pb2_grpc.add_ResourcesServicer_to_server(replica, server)
        controlplane_pb2_grpc.add_ClusterServicer_to_server(replica, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}", replica

    yield start_one
    for server in servers:
        server.stop(0).wait()


def applied(request: Any, context: Any) -> pb.ApplyResponse:
    return pb.ApplyResponse(seq=7)


def refuses(code: grpc.StatusCode, details: str) -> Handler:
    return lambda request, context: context.abort(code, details)


def test_one_that_cannot_be_reached_is_passed_over(start: Any) -> None:
    address, _ = start(applied)
    assert Client([NOBODY, address]).resources("Apply", pb.ApplyRequest()).seq == 7


def test_one_that_is_unavailable_is_passed_over_and_not_asked_first_again(start: Any) -> None:
    (ill, first), (well, second) = start(refuses(grpc.StatusCode.UNAVAILABLE, "etcd is away")), start(applied)
    client = Client([ill, well])
    client.resources("Apply", pb.ApplyRequest())
    client.resources("Apply", pb.ApplyRequest())
    assert (first.asked, second.asked) == (1, 2)


def test_where_nobody_can_each_one_says_why(start: Any) -> None:
    ill, _ = start(refuses(grpc.StatusCode.UNAVAILABLE, "etcd is away"))
    with pytest.raises(Failure) as failure:
        Client([NOBODY, ill]).resources("List", pb.ListRequest())
    tried = f"{NOBODY} (connection refused), {ill} (etcd is away)"
    assert failure.value.format_message() == f"no server can do this now; tried {tried}"


@pytest.mark.parametrize(
    ("code", "details", "message"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "p.yaml: document 2: kind: unknown", "p.yaml: document 2: kind: unknown"),
        (grpc.StatusCode.NOT_FOUND, "Pod a/b: not found", "Pod a/b: not found"),
        (
            grpc.StatusCode.UNKNOWN,
            "Outcome unknown: etcd fell silent",
            "SERVER: Outcome unknown: etcd fell silent; it ",
        ),
        (grpc.StatusCode.INTERNAL, "a bug", "SERVER failed: a bug"),
        (grpc.StatusCode.UNIMPLEMENTED, "", "SERVER does not know this call: is it of another version?"),
    ],
)
def test_an_answer_is_not_asked_for_twice(start: Any, code: Any, details: str, message: str) -> None:
    (server, _), (other, second) = start(refuses(code, details)), start(applied)
    with pytest.raises(Failure) as failure:
        Client([server, other]).resources("Apply", pb.ApplyRequest())
    assert failure.value.format_message().startswith(message.replace("SERVER", server))
    assert second.asked == 0


def test_of_a_write_without_answer_the_outcome_is_unknown_and_a_read_goes_on(start: Any) -> None:
    def silent(request: Any, context: Any) -> Any:
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait()
        return pb.ApplyResponse()

    (mute, _), (well, _) = start(silent), start(lambda request, context: pb.ListResponse(seq=3))
    with pytest.raises(Failure, match="outcome unknown: no answer within 0.2 s; it may or may not have been applied"):
        Client([mute, well]).resources("Apply", pb.ApplyRequest(), timeout_s=0.2)
    assert Client([mute, well]).resources("List", pb.ListRequest(), timeout_s=0.2).seq == 3


def test_reading_the_log_goes_on_at_the_next_server(start: Any) -> None:
    def breaks_after_two(request: Any, context: Any) -> Iterator[pb.LogEntry]:
        yield from (pb.LogEntry(seq=request.from_seq + index) for index in range(2))
        context.abort(grpc.StatusCode.UNAVAILABLE, "leaving")

    def to_the_end(request: Any, context: Any) -> Iterator[pb.LogEntry]:
        yield from (pb.LogEntry(seq=seq) for seq in range(request.from_seq, 6))

    (breaking, _), (well, _) = start(breaks_after_two), start(to_the_end)
    entries = Client([breaking, well]).read_log(pb.ReadLogRequest(from_seq=1))
    assert [entry.seq for entry in entries] == [1, 2, 3, 4, 5]


def test_reading_the_log_ends_where_every_server_breaks_off(start: Any) -> None:
    def breaks(request: Any, context: Any) -> Iterator[pb.LogEntry]:
        yield from ()
        context.abort(grpc.StatusCode.UNAVAILABLE, "leaving")

    server, replica = start(breaks)
    with pytest.raises(Failure, match="leaving"):
        list(Client([server]).read_log(pb.ReadLogRequest(from_seq=1)))
    assert replica.asked == 1


def test_the_reason_is_the_last_thing_grpc_says() -> None:
    class Error(grpc.RpcError):
        def details(self) -> str:
            return (
                "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "
                "Failed to connect to remote host: Connection refused"
            )

    assert why_unavailable(Error()) == "connection refused"
