"""From commits to rows in the kernel: take what has arrived, fold, write the cache, write the kernel, acknowledge.

  1. A stream that starts from scratch is folded aside; what is enforced stays until that has reached the head.
  2. Nothing is deleted from the kernel before the head was reached once (I6); then everything is compared once.
  3. The cache is written before the kernel, so that it is never older.
Easy to get wrong: `enforced_seq` moves only when its rows are written; a full map holds it back until it fits. An
endpoint without its interface does not: its row waits in the driver (`rejoin`), and the endpoint is closed until then.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping

import structlog

from kilim.agent.cache import DiskCache
from kilim.agent.core.drift import DriftedRow, drifted_rows
from kilim.agent.inbox import Arrival, Begun, CommitsArrived, HeadArrived, Inbox, SnapshotArrived
from kilim.agent.replica import Replica
from kilim.agent.settings import AGENT_VERSION
from kilim.agent.tables import Kernel
from kilim.kvstore.commit import Commit, decode_commit
from kilim.kvstore.errors import LogBroken
from kilim.model.snapshot import decode_records
from kilim.model.tables import TablesDelta
from kilim.v1 import controlplane_pb2 as pb

log = structlog.get_logger(__name__)

_REPLAY_RECORDS = 2000  # from here on making the tables anew is cheaper than following each record
_SLICE_S = 0.02
_NAMED = 20


class Enforcement:
    """`ifindex_of` is the live mapping of local addresses to interfaces; whoever changes it calls `rejoin`."""

    def __init__(
        self,
        replica: Replica,
        inbox: Inbox,
        cache: DiskCache,
        kernel: Kernel,
        ifindex_of: Mapping[int, int],
        publish: Callable[[pb.NodeReport], None],
        restart_from_scratch: Callable[[], None],
    ) -> None:
        self.replica = replica
        self.in_sync = False
        self.rebuilt_at_ns = 0
        self.enforced_seq = 0
        self.drift_repairs: Counter[str] = Counter()  # by table
        self.kernel_digest, self.kernel_seq, self.kernel_readings = b"", 0, 0  # of the last reading; how many
        self.errors: dict[str, str] = {}
        self._health: pb.ConnectivitySummary | None = None
        self._inbox = inbox
        self._cache = cache
        self._kernel = kernel
        self._ifindex_of = ifindex_of
        self._publish = publish
        self._restart_from_scratch = restart_from_scratch
        self._staging: Replica | None = None
        self._in_snapshot = False  # some of its parts are here, not all
        self._ignoring = True  # until a stream begins
        self._unwritten = False
        self._enforced_digests = (b"", b"")
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._yielded_at = 0.0
        self.synced = asyncio.Event()
        self.routing_mode = "tunnel"  # as this node is started, for its reports

    def position(self) -> tuple[int, bytes]:
        """Where a subscription is to go on."""
        return (self._staging or self.replica).position

    def start_from_cache(self) -> None:
        """Rows of the cached state into the kernel, none out of it."""
        self.replica.finish_replay()
        self._reconcile()

    async def run(self) -> None:
        """Never ends."""
        while True:
            arrivals = await self._inbox.take()
            try:
                await self._apply(arrivals)
            except LogBroken as error:
                log.error("the log that was sent is broken; subscribing from scratch", reason=str(error))
                self._ignoring = True
                self._staging = None
                self._restart_from_scratch()
            finally:
                self._inbox.release()

    def rejoin(self) -> None:
        """An interface has come: rows that waited for it are written."""
        self._write(TablesDelta())

    async def wait_enforced(self, seq: int) -> None:
        """Until everything up to `seq` is in the kernel."""
        if self.enforced_seq >= seq:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiters.append((seq, future))
        await future

    def repair(self) -> None:
        """Compare the kernel with what is desired; differences are counted and mended."""
        if self.in_sync:
            self._reconcile(count_drift=not self._unwritten)

    def take_reading(self, digest: bytes, seq: int) -> None:
        """What the kernel held at `seq`, told to the replicas."""
        self.kernel_digest, self.kernel_seq = digest, seq
        self.kernel_readings += 1
        self._publish(self.report())

    def report(self) -> pb.NodeReport:
        return pb.NodeReport(
            node=self.replica.node,
            seq=self.enforced_seq,
            state_digest=self._enforced_digests[0],
            table_digest=self._enforced_digests[1],
            errors=sorted(self.errors.values()),
            agent_version=AGENT_VERSION,
            drift_repairs=self.drift_repairs.total(),
            kernel_digest=self.kernel_digest,
            kernel_seq=self.kernel_seq,
            kernel_readings=self.kernel_readings,
            health=self._health,
            routing_mode=self.routing_mode,
        )

    # --- arrivals

    async def _apply(self, arrivals: list[Arrival]) -> None:
        commits: list[Commit] = []
        self._yielded_at = time.monotonic()
        for arrival in arrivals:
            if isinstance(arrival, Begun):
                commits.clear()  # never: Inbox.start has emptied it
                self._begin(arrival)
            elif self._ignoring:
                continue
            elif isinstance(arrival, SnapshotArrived):
                await self._take_snapshot(arrival.part)
            elif isinstance(arrival, CommitsArrived):
                if self._in_snapshot:
                    raise LogBroken(0, "commits in the midst of a snapshot")
                decoded = map(decode_commit, arrival.encoded)
                if self._staging is not None:
                    await self._replay(self._staging, decoded)
                else:
                    commits += decoded
            elif self._staging is not None or not self.in_sync:
                if commits:
                    await self._follow(commits)
                    commits = []
                self._reach(arrival)  # before what came after it
        if commits:
            await self._follow(commits)

    def _begin(self, begun: Begun) -> None:
        self._ignoring = False
        self._in_snapshot = False
        if begun.from_scratch:
            self._staging = Replica(self.replica.node)

    async def _take_snapshot(self, part: pb.SnapshotPart) -> None:
        if self._staging is None or self._staging.seq:
            raise LogBroken(part.seq, "a snapshot where commits were due")
        self._staging.load_part(decode_records(part.records))
        self._in_snapshot = not part.last
        if part.last:
            self._staging.finish_snapshot(part.seq, part.chain, part.state_digest)
        await self._breathe()

    async def _replay(self, target: Replica, commits: "map[Commit] | list[Commit]") -> None:
        for commit in commits:
            target.replay_commit(commit)
            await self._breathe()

    async def _follow(self, commits: list[Commit]) -> None:
        if sum(len(commit.records) for commit in commits) >= _REPLAY_RECORDS:
            await self._replay(self.replica, commits)
            deltas = [self.replica.finish_replay()]
        else:
            deltas = self.replica.apply_commits(commits)
        try:
            self._cache.append(commits)
        except OSError as error:
            self._note_error("cache", f"cache: {error}")
        self._write(*deltas)

    def _reach(self, head: HeadArrived) -> None:
        """Everything up to the head is folded."""
        staged = self._staging
        if staged is not None:
            if staged.seq != head.seq:
                raise LogBroken(head.seq, f"the stream ended its replay at seq {staged.seq}")
            staged.finish_replay()
            self.replica, self._staging = staged, None
            self._void_cache()
        first = not self.in_sync
        self.in_sync = True
        self._reconcile()
        self.synced.set()
        if first:
            log.info("in sync with the log", seq=self.replica.seq)

    def _void_cache(self) -> None:
        try:
            self._cache.void()
        except OSError as error:
            self._note_error("cache", f"cache: {error}")

    async def _breathe(self) -> None:
        # A long fold must not starve heartbeats, CNI calls and reports.
        if time.monotonic() - self._yielded_at > _SLICE_S:
            await asyncio.sleep(0)
            self._yielded_at = time.monotonic()

    # --- the kernel

    def _reconcile(self, count_drift: bool = False) -> None:
        held_back = self._kernel.held_endpoints
        try:
            held, wanted = self._kernel.read_rows(), self.replica.tables
        except OSError as error:
            self._fail(error)
            return
        delta = TablesDelta.between(held, wanted)
        local_drift = self._kernel.take_local_drift()
        if count_drift and (delta or local_drift):
            rows = [row for row in drifted_rows(held, wanted, delta) if not row.is_held_back(held_back)]
            self._count_drift([*rows, *local_drift])
        if not delta.ipcache:
            wanted.ipcache = held.ipcache  # equal, and shared with the driver: a large cluster's rows are held once
        self._unwritten = False
        self._write(delta)

    def _write(self, *deltas: TablesDelta) -> None:
        """One after the other; what they lead to is enforced then."""
        if self._unwritten:  # a delta on top of rows that are missing would hide them
            self._reconcile()
            return
        try:
            for delta in deltas:
                self._kernel.write(delta, self.replica.seq, self._ifindex_of, allow_delete=self.in_sync)
        except OSError as error:
            self._fail(error)
            return
        self.errors.pop("kernel", None)
        self.enforced_seq = self.replica.seq
        self._enforced_digests = (self.replica.state_digest, self.replica.table_digest)
        if not self.rebuilt_at_ns and self.enforced_seq:
            self.rebuilt_at_ns = time.time_ns()
        self._publish(self.report())
        self._wake()

    def _fail(self, error: OSError) -> None:
        self._unwritten = True
        self._note_error("kernel", f"kernel tables: {error.strerror or error}")
        self._publish(self.report())

    def note(self, about: str, message: str) -> None:
        """What is not well, told to the replicas at once; an empty message: it is well again."""
        if self.errors.get(about, "") == message:
            return
        if message:
            self._note_error(about, message)
        else:
            del self.errors[about]
        self._publish(self.report())

    def tell_health(self, summary: pb.ConnectivitySummary) -> None:
        self._health = summary
        self._publish(self.report())

    def _note_error(self, about: str, message: str) -> None:
        if self.errors.get(about) != message:
            log.error("not well", about=about, reason=message)
        self.errors[about] = message

    def _count_drift(self, rows: list[DriftedRow]) -> None:
        if rows:
            self.drift_repairs.update(row.table for row in rows)
            log.warning(
                "the kernel's rows were not those that were written; repairing",
                node=self.replica.node,
                seq=self.replica.seq,
                rows=len(rows),
                first=[str(row) for row in rows[:_NAMED]],
            )

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for seq, future in waiters:
            if future.done():
                continue
            if seq <= self.enforced_seq:
                future.set_result(None)
            else:
                self._waiters.append((seq, future))
