"""History asked of several servers: goes on where one broke off, and believes none that tells another story."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from kilim.cli.client import Client
from kilim.cli.failure import Failure
from kilim.cli.history.rebuild import state_at
from kilim.cli.history.server import ServerHistory
from kilim.kvstore.commit import Commit
from kilim.kvstore.errors import LogBroken, Trimmed
from kilim.v1 import controlplane_pb2 as pb
from kilim.v1 import controlplane_pb2_grpc as rpc
from tests.pure.cli.held import HeldHistory, base_at, commits_of, event

COMMITS = commits_of([event(ms, namespace_labelled={"namespace": {"name": f"n{ms}"}}) for ms in range(12)])
OTHER = commits_of([event(ms, namespace_labelled={"namespace": {"name": f"m{ms}"}}) for ms in range(12)])


class Server(rpc.ClusterServicer, rpc.LogServicer):
    """Has some commits; `breaks_after` that many in an answer its connection is gone."""

    def __init__(self, commits: list[Commit], breaks_after: int = 99) -> None:
        self.commits = commits
        self.breaks_after = breaks_after

    def Status(self, request: Any, context: Any) -> pb.StatusResponse:
        first, last = self.commits[0], self.commits[-1]
        log = pb.LogStatus(first_seq=first.first_seq)
        return pb.StatusResponse(seq=last.last_seq, chain=last.chain_after, log=log)

    def ReadCommits(self, request: Any, context: Any) -> Iterator[pb.CommitBatch]:
        if request.from_seq < self.commits[0].first_seq:
            context.abort(grpc.StatusCode.OUT_OF_RANGE, "the log begins later")
        wanted = [each for each in self.commits if each.last_seq >= request.from_seq]
        for number, commit in enumerate(each for each in wanted if each.first_seq <= request.to_seq):
            if number == self.breaks_after:
                context.abort(grpc.StatusCode.UNAVAILABLE, "going")
            yield pb.CommitBatch(commits=[commit.encoded])

    def ReadSnapshot(self, request: Any, context: Any) -> Iterator[pb.SnapshotPart]:
        if request.at_seq < 6:
            context.abort(grpc.StatusCode.NOT_FOUND, "none")
        base = base_at(COMMITS, 6)
        parts = [pb.SnapshotPart(seq=6, chain=base.chain, state_digest=base.state_digest) for _ in range(2)]
        parts[0].records.extend(base.records)
        parts[1].last = True
        yield from parts


@pytest.fixture
def history() -> Iterator[Callable[..., ServerHistory]]:
    running: list[grpc.Server] = []

    def serve(*servers: Server) -> ServerHistory:
        addresses = []
        for one in servers:
            server = grpc.server(ThreadPoolExecutor(2))
            rpc.add_ClusterServicer_to_server(one, server)  # type: ignore[no-untyped-call]
            rpc.add_LogServicer_to_server(one, server)  # type: ignore[no-untyped-call]
            addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
            server.start()
            running.append(server)
        return ServerHistory(Client(addresses))

    yield serve
    for server in running:
        server.stop(0).wait()


def test_another_server_goes_on_where_one_broke_off(history: Any) -> None:
    source = history(Server(COMMITS, breaks_after=2), Server(COMMITS))
    assert list(source.commits(1)) == COMMITS
    assert (source.span().first_seq, source.span().last_seq) == (1, 12)


def test_one_with_another_chain_is_not_believed(history: Any) -> None:
    source = history(Server(COMMITS, breaks_after=2), Server(OTHER))
    with pytest.raises(LogBroken, match="seq 7"):
        list(source.commits(1))


def test_one_that_is_behind_is_not_a_broken_log(history: Any) -> None:
    source = history(Server(COMMITS, breaks_after=2), Server(COMMITS[:3]))
    with pytest.raises(Failure, match="events up to 9, not yet up to 12: try again"):
        list(source.commits(1))


def test_a_trimmed_log_begins_with_its_snapshot(history: Any) -> None:
    source = history(Server(COMMITS[2:]))
    span = source.span()
    assert (span.first_seq, span.chain_before) == (7, COMMITS[2].chain_before)
    assert state_at(source, 8).digest == state_at(HeldHistory(COMMITS), 8).digest
    assert source.base(5) is None and source.base(0) is None
    with pytest.raises(Trimmed):
        state_at(source, 5)
    with pytest.raises(Trimmed) as trimmed:
        list(source.commits(4))
    assert trimmed.value.first_seq == 7
