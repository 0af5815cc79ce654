"""Failover of the client, against real gRPC servers on loopback."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from kilim.cli.client import Client, why_unavailable
from kilim.cli.failure import Failure
from kilim.controlplane.api.status import NOT_APPLIED
from kilim.v1 import controlplane_pb2 as pb
from kilim.v1 import controlplane_pb2_grpc

NOBODY = "127.0.0.1:1"
Handler = Callable[[Any, Any], Any]


class Replica(
    controlplane_pb2_grpc.ResourcesServicer, controlplane_pb2_grpc.ClusterServicer, controlplane_pb2_grpc.LogServicer
):
    """Does what the test says, and counts how often it was asked."""

    def __init__(self, handler: Handler) -> None:
        self.handler, self.asked = handler, 0

    def _answer(self, request: Any, context: Any) -> Any:
        self.asked += 1
        return self.handler(request, context)

    Apply = Delete = List = _answer

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
        controlplane_pb2_grpc.add_LogServicer_to_server(replica, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}", replica

    yield start_one
    for server in servers:
        server.stop(0).wait()


def applied(request: Any, context: Any) -> pb.ApplyResponse:
    return pb.ApplyResponse(seq=7)


def not_applied(request: Any, context: Any) -> Any:
    context.set_trailing_metadata((NOT_APPLIED,))
    context.abort(grpc.StatusCode.UNAVAILABLE, "etcd is away")


def refuses(code: grpc.StatusCode, details: str) -> Handler:
    return lambda request, context: context.abort(code, details)


def test_one_that_cannot_be_reached_is_passed_over(start: Any) -> None:
    address, _ = start(applied)
    assert Client([NOBODY, address]).resources("Apply", pb.ApplyRequest()).seq == 7


def test_one_that_is_unavailable_is_passed_over_and_not_asked_first_again(start: Any) -> None:
    (ill, first), (well, second) = start(not_applied), start(applied)
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


def silent(request: Any, context: Any) -> Any:
    gone = threading.Event()
    context.add_callback(gone.set)
    gone.wait()


PERHAPS: list[tuple[Handler, str]] = [
    (refuses(grpc.StatusCode.UNAVAILABLE, "Socket closed"), "Socket closed"),
    (refuses(grpc.StatusCode.UNAVAILABLE, "GOAWAY received"), "GOAWAY received"),
    (refuses(grpc.StatusCode.UNKNOWN, "Stream removed"), "Stream removed"),
    (refuses(grpc.StatusCode.CANCELLED, "Cancelling all calls"), "Cancelling all calls"),
    (refuses(grpc.StatusCode.UNKNOWN, "outcome unknown: etcd is mute; repeating it is harmless"), "etcd is mute"),
    (silent, "no answer within 0.3 s"),
]


@pytest.mark.parametrize(("handler", "why"), PERHAPS)
def test_what_was_perhaps_done_is_tried_elsewhere_and_else_said_to_be_unknown(
    start: Any, handler: Handler, why: str
) -> None:
    (bad, _), (ill, _), (well, _) = start(handler), start(not_applied), start(applied)
    with pytest.raises(Failure) as failure:
        Client([NOBODY, bad, ill]).resources("Apply", pb.ApplyRequest(), timeout_s=0.3)
    tried = f"{NOBODY} (connection refused), {bad} ({why}), {ill} (etcd is away)"
    assert failure.value.format_message() == f"outcome unknown: {tried}; repeating it is harmless"
    assert failure.value.exit_code == 1
    assert Client([bad, ill, well]).resources("Apply", pb.ApplyRequest(), timeout_s=0.3).seq == 7


def test_a_connection_that_breaks_when_the_request_has_left_leaves_the_outcome_unknown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def break_off() -> None:
            connection, _ = listener.accept()
            connection.sendall(b"\0\0\0\4\0\0\0\0\0")  # an empty SETTINGS frame: HTTP/2 is up
            while b"Apply" not in connection.recv(65536):
                pass
            connection.close()

        thread = threading.Thread(target=break_off)
        thread.start()
        server = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(Failure, match="^outcome unknown: "):
            Client([server]).resources("Apply", pb.ApplyRequest(), timeout_s=5)
        thread.join()


def test_a_server_that_is_too_busy_does_not_settle_what_another_perhaps_did(start: Any) -> None:
    (bad, _), (busy, _) = start(PERHAPS[0][0]), start(refuses(grpc.StatusCode.RESOURCE_EXHAUSTED, "too busy"))
    with pytest.raises(Failure, match="^outcome unknown: "):
        Client([bad, busy]).resources("Apply", pb.ApplyRequest())


def test_a_read_without_answer_goes_on(start: Any) -> None:
    (mute, _), (well, _) = start(silent), start(lambda request, context: pb.ListResponse(seq=3))
    assert Client([mute, well]).resources("List", pb.ListRequest(), timeout_s=0.2).seq == 3


def deleting(*there: str) -> Handler:
    """A server with these objects only."""

    def handle(request: pb.DeleteRequest, context: Any) -> pb.DeleteResponse:
        missing = [ref.name for ref in request.refs if ref.name not in there]
        if missing and not request.ignore_not_found:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{missing[0]}: not found")
        actions = ["deleted" if ref.name in there else "not found" for ref in request.refs]
        results = [pb.Applied(name=ref.name, action=a) for ref, a in zip(request.refs, actions, strict=True)]
        return pb.DeleteResponse(seq=9, results=results)

    return handle


def test_what_a_delete_in_doubt_does_not_find_is_deleted(start: Any) -> None:
    request = pb.DeleteRequest(refs=[pb.ResourceRef(name="a"), pb.ResourceRef(name="b")])
    (bad, _), (empty, _), (partly, _) = start(PERHAPS[0][0]), start(deleting()), start(deleting("b"))
    answer = Client([bad, empty]).resources("Delete", request)
    assert (answer.seq, [(r.name, r.action) for r in answer.results]) == (9, [("a", "deleted"), ("b", "deleted")])
    with pytest.raises(Failure, match="^a: not found"):
        Client([bad, partly]).resources("Delete", request)
    with pytest.raises(Failure, match="^a: not found"):
        Client([NOBODY, empty]).resources("Delete", request)


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


def test_what_a_server_quotes_of_grpc_is_left_as_it_says_it() -> None:
    class Error(grpc.RpcError):
        def details(self) -> str:
            return "etcd is unreachable since 4 s: UNAVAILABLE: failed to connect; last error: Connection refused"

    assert why_unavailable(Error()).startswith("etcd is unreachable since 4 s")
