"""History asked of the control plane (`Log.ReadCommits`, `Log.ReadSnapshot`).

Easy to get wrong: a replica that fails in the middle is replaced by the next one, which may be behind the first; the
chain is followed over both, so that they are proven to tell the same story.
"""

from collections.abc import Iterator

import grpc

from kilim.cli.client import Client, Refused
from kilim.cli.failure import Failure
from kilim.cli.history.source import Base
from kilim.kvstore.commit import CHAIN_START, Commit, decode_commit
from kilim.kvstore.cursor import Cursor
from kilim.kvstore.errors import SnapshotBroken, Trimmed
from kilim.kvstore.span import Span
from kilim.v1 import controlplane_pb2 as pb

NO_SNAPSHOT = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED}


class ServerHistory:
    """`stored`: commits as etcd holds them now, also those that the server has in memory."""

    def __init__(self, client: Client, stored: bool = False) -> None:
        self._client = client
        self._stored = stored
        self._span: Span | None = None

    def span(self) -> Span:
        if self._span is None:
            self._span = self._ask_span()
        return self._span

    def commits(self, from_seq: int, to_seq: int | None = None) -> Iterator[Commit]:
        last = self.span().last_seq if to_seq is None else to_seq
        if from_seq > last:
            return
        cursor = Cursor(from_seq, None)
        request = pb.ReadCommitsRequest(from_seq=from_seq, to_seq=last, stored=self._stored)
        try:
            for batch in self._client.log_stream("ReadCommits", request, _after):
                for encoded in batch.commits:
                    commit = decode_commit(encoded)
                    cursor.advance(commit)
                    yield commit
        except Refused as refused:
            if refused.code is grpc.StatusCode.OUT_OF_RANGE:
                raise Trimmed(self._ask_span().first_seq) from refused
            raise
        if cursor.next_seq <= last and not self._stored:  # the one that was asked first has failed, perhaps
            raise Failure(f"the server has events up to {cursor.next_seq - 1}, not yet up to {last}: try again")

    def snapshot_seqs(self) -> list[int]:
        status = self._client.cluster("Status", pb.StatusRequest(this_replica_only=True))
        return [one.seq for one in status.log.snapshots]

    def base(self, at_seq: int) -> Base | None:
        # To the server 0 is the present state.
        return self._snapshot(pb.ReadSnapshotRequest(at_seq=at_seq)) if at_seq >= 1 else None

    def snapshot(self, seq: int) -> Base | None:
        return self._snapshot(pb.ReadSnapshotRequest(at_seq=seq, exact=True))

    def _snapshot(self, request: pb.ReadSnapshotRequest) -> Base | None:
        try:
            parts = self._client.log_parts("ReadSnapshot", request)
        except Refused as refused:
            if refused.code in NO_SNAPSHOT:
                return None
            if refused.code is grpc.StatusCode.DATA_LOSS:
                raise SnapshotBroken(request.at_seq, refused.message) from refused
            raise
        if not parts:
            return None
        first = parts[0]
        if not parts[-1].last:
            raise SnapshotBroken(first.seq, "it ends before its last part")
        records = (record for part in parts for record in part.records)
        return Base(first.seq, first.chain, first.state_digest, records, first.time_ns)

    def _ask_span(self) -> Span:
        status = self._client.cluster("Status", pb.StatusRequest(this_replica_only=True))
        if self._stored:
            for batch in self._client.log_stream("ReadCommits", pb.ReadCommitsRequest(stored=True), _after):
                first = decode_commit(batch.commits[0])
                return Span(first.first_seq, first.chain_before, status.seq, status.chain)
        first_seq = max(status.log.first_seq, 1)
        if first_seq == 1 or first_seq > status.seq:
            return Span(first_seq, CHAIN_START if first_seq == 1 else status.chain, status.seq, status.chain)
        request = pb.ReadCommitsRequest(from_seq=first_seq, to_seq=first_seq)
        for batch in self._client.log_stream("ReadCommits", request, _after):
            return Span(first_seq, decode_commit(batch.commits[0]).chain_before, status.seq, status.chain)
        raise Trimmed(first_seq)


def _after(batch: pb.CommitBatch) -> int:
    return decode_commit(batch.commits[-1]).last_seq + 1
