"""The agent's side of the log: subscription, enforcement, reports and calls against real gRPC servers."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from kilim.agent.cache import DiskCache
from kilim.agent.calls import Calls
from kilim.agent.enforcement import Enforcement
from kilim.agent.inbox import Inbox
from kilim.agent.replica import Replica
from kilim.agent.reports import Reports, report_to
from kilim.agent.servers import ControlPlaneAway, Refused, Servers
from kilim.agent.uplink import Subscription
from kilim.kvstore.commit import Commit
from kilim.model.tables import Tables, TablesDelta
from kilim.v1 import controlplane_pb2 as pb
from tests.contract.agent.replicas import FakeReplica, break_chain, say_nothing, serve_trimmed
from tests.pure.agent.commits import NODE, endpoint_added, log_of, node_joined, some_log


class RowsInMemory:
    """The kernel's side: rows as logical tables, and what was done to them."""

    def __init__(self) -> None:
        self.rows = Tables()
        self.deletes_before_sync = 0
        self.fail: OSError | None = None

    def read_rows(self) -> Tables:
        copy = Tables()
        TablesDelta.between(Tables(), self.rows).apply_to(copy)
        return copy

    def has_endpoint(self, ip: int) -> bool:
        return ip in self.rows.endpoints

    def write(self, delta: TablesDelta, seq: int, ifindex_of: Mapping[int, int], *, allow_delete: bool = True) -> None:
        if self.fail is not None:
            raise self.fail
        if not allow_delete:
            for part in (delta.ipcache, delta.endpoints, delta.subjects, delta.policy):
                gone = [key for key, value in part.items() if value is None]  # type: ignore[attr-defined]
                for key in gone:
                    del part[key]  # type: ignore[attr-defined]
        delta.apply_to(self.rows)

    def sweep(self, min_age_s: float = 0.0) -> int:
        return 0

    @property
    def held_endpoints(self) -> frozenset[int]:
        return frozenset()

    def take_local_drift(self) -> list[object]:
        return []


class Uplink:
    """What the runtime wires, over rows in memory."""

    def __init__(self, addresses: list[str], directory: Path) -> None:
        self.servers = Servers(addresses)
        self.inbox = Inbox()
        self.kernel = RowsInMemory()
        self.reports = Reports()
        self.subscription = Subscription(NODE, self.servers, self.inbox, lambda: self.enforcement.position(), 0.5)
        self.cache = DiskCache(directory)
        self.cached = self.cache.load(NODE)
        self.enforcement = Enforcement(
            self.cached or Replica(NODE), self.inbox, self.cache, self.kernel, {}, self.reports.publish,
            self.subscription.restart_from_scratch,
        )  # fmt: skip

    async def reach(self, seq: int) -> None:
        async with asyncio.timeout(8):
            await self.enforcement.synced.wait()
            await self.enforcement.wait_enforced(seq)


@contextlib.asynccontextmanager
async def running(uplink: Uplink) -> AsyncIterator[Uplink]:
    work = [uplink.enforcement.run(), uplink.subscription.run()]
    work += [report_to(server, uplink.reports, 0.2) for server in uplink.servers.all]
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        yield uplink
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        uplink.cache.close()
        await uplink.servers.close()


@pytest.fixture
async def replicas() -> AsyncIterator[Callable[..., Any]]:
    made: list[FakeReplica] = []

    async def make(commits: list[Commit], **options: Any) -> FakeReplica:
        replica = FakeReplica(commits, **options)
        await replica.start()
        made.append(replica)
        return replica

    yield make
    for replica in made:
        await replica.stop()


def address(replica: FakeReplica) -> str:
    return f"127.0.0.1:{replica.port}"


def desired(commits: list[Commit]) -> Tables:
    replica = Replica(NODE)
    replica.apply_commits(commits)
    return replica.tables


def _ends_at(reports: list[pb.NodeReport], seq: int) -> bool:
    return bool(reports) and reports[-1].seq == seq


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(8):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def test_it_follows_enforces_and_reports_to_every_replica(replicas: Any, tmp_path: Path) -> None:
    commits = some_log()
    first, second = await replicas(commits[:6]), await replicas([])
    async with running(Uplink([address(first), address(second)], tmp_path)) as uplink:
        await uplink.reach(commits[5].last_seq)
        for commit in commits[6:]:
            await first.append(commit)
        await uplink.reach(commits[-1].last_seq)
        assert uplink.kernel.rows == desired(commits)
        for heard in (first.reports, second.reports):
            await eventually(functools.partial(_ends_at, heard, commits[-1].last_seq))
        assert first.reports[-1].table_digest == desired(commits).digest()
        assert not second.subscriptions


async def test_a_lost_replica_is_followed_by_the_next_at_the_next_event(replicas: Any, tmp_path: Path) -> None:
    commits = some_log()
    first, second = await replicas(commits[:6]), await replicas(list(commits))
    async with running(Uplink([address(first), address(second)], tmp_path)) as uplink:
        await uplink.reach(commits[5].last_seq)
        await first.stop()
        await uplink.reach(commits[-1].last_seq)
        assert [each.from_seq for each in second.subscriptions] == [commits[5].last_seq + 1]
        assert uplink.subscription.server == address(second)


async def test_a_silent_replica_is_left(replicas: Any, tmp_path: Path) -> None:
    commits = some_log()
    silent, good = await replicas(list(commits), follow=say_nothing), await replicas(list(commits))
    async with running(Uplink([address(silent), address(good)], tmp_path)) as uplink:
        await uplink.reach(commits[-1].last_seq)
        assert uplink.subscription.server == address(good)


async def test_a_gap_makes_it_start_anew_and_nothing_wrong_is_written(replicas: Any, tmp_path: Path) -> None:
    commits = some_log()
    replica = await replicas(list(commits), follow=break_chain)
    async with running(Uplink([address(replica)], tmp_path)) as uplink:
        await uplink.reach(commits[-1].last_seq)
        assert len(replica.subscriptions) == 2 and replica.subscriptions[1].from_seq <= 1
        assert uplink.kernel.rows == desired(commits)


async def test_another_history_replaces_ours_and_deletes_only_when_in_sync(replicas: Any, tmp_path: Path) -> None:
    ours, theirs = some_log(), log_of([node_joined(NODE, 0x0A000001)], [endpoint_added("q", 0x0A020001)])
    replica = await replicas(list(ours))
    async with running(Uplink([address(replica)], tmp_path)) as uplink:
        await uplink.reach(ours[-1].last_seq)
        replica.commits = list(theirs)
        port = replica.port
        await replica.stop()
        replica.port = port
        await replica.start()
        await eventually(lambda: uplink.enforcement.replica.seq == theirs[-1].last_seq)
        assert uplink.kernel.rows == desired(theirs)
        assert uplink.enforcement.report().state_digest == uplink.enforcement.replica.state_digest


async def test_a_log_that_was_trimmed_away_is_gone_on_with_by_snapshot(replicas: Any, tmp_path: Path) -> None:
    commits = some_log()
    replica = await replicas(commits[:3])
    async with running(Uplink([address(replica)], tmp_path)) as uplink:
        await uplink.reach(commits[2].last_seq)
        await replica.stop()
        replica.commits, replica.follow = list(commits), serve_trimmed
        await replica.start()
        await uplink.reach(commits[-1].last_seq)
        assert [each.from_seq for each in replica.subscriptions[-2:]] == [commits[2].last_seq + 1, 0]
        assert uplink.kernel.rows == desired(commits)


async def test_a_restart_enforces_from_the_cache_and_goes_on_where_it_was(replicas: Any, tmp_path: Path) -> None:
    commits = some_log()
    replica = await replicas(commits[:8])
    async with running(Uplink([address(replica)], tmp_path)) as uplink:
        await uplink.reach(commits[7].last_seq)
        uplink.cache.rewrite(uplink.cache.freeze(uplink.enforcement.replica))
        await replica.append(commits[8])
        await uplink.reach(commits[8].last_seq)
    replica.subscriptions.clear()
    again = Uplink([address(replica)], tmp_path)
    assert again.cached is not None
    again.kernel.rows.ipcache[(0x01020304, 32)] = (9, 0)  # left by an agent before; goes once in sync, not before
    again.enforcement.start_from_cache()
    assert again.enforcement.enforced_seq == commits[8].last_seq
    assert (0x01020304, 32) in again.kernel.rows.ipcache
    async with running(again):
        await replica.append(commits[9])
        await again.reach(commits[9].last_seq)
        assert replica.subscriptions[0].from_seq == commits[8].last_seq + 1
        assert again.kernel.rows == desired(commits[:10])


async def test_a_full_map_is_reported_and_mended_when_there_is_room(replicas: Any, tmp_path: Path) -> None:
    commits = some_log()
    replica = await replicas(commits[:4])
    async with running(Uplink([address(replica)], tmp_path)) as uplink:
        await uplink.reach(commits[3].last_seq)
        uplink.kernel.fail = OSError(28, "map ipcache is full")
        await replica.append(commits[4])
        await eventually(lambda: bool(replica.reports) and bool(replica.reports[-1].errors))
        assert replica.reports[-1].seq == commits[3].last_seq
        uplink.kernel.fail = None
        uplink.enforcement.repair()
        await uplink.reach(commits[4].last_seq)
        assert uplink.kernel.rows == desired(commits[:5]) and not uplink.enforcement.errors


async def test_a_call_fails_over_and_a_refusal_is_an_answer(replicas: Any) -> None:
    gone, good = await replicas([]), await replicas([])
    await gone.stop()
    servers = Servers([address(gone), address(good)])
    calls = Calls(servers)
    try:
        answer = await calls.register_endpoint(pb.RegisterEndpointRequest(node=NODE))
        assert answer.identity == 300
        good.refuse = grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(Refused, match="so it is"):
            await calls.register_endpoint(pb.RegisterEndpointRequest(node=NODE))
        good.refuse = grpc.StatusCode.UNAVAILABLE
        with pytest.raises(ControlPlaneAway):
            await calls.register_endpoint(pb.RegisterEndpointRequest(node=NODE))
    finally:
        await servers.close()


async def test_who_reports_and_who_calls_outlives_a_renewed_connection(replicas: Any, tmp_path: Path) -> None:
    commits = some_log()
    one = await replicas(list(commits))
    async with running(Uplink([address(one)], tmp_path)) as uplink:
        await uplink.reach(commits[-1].last_seq)
        await eventually(functools.partial(_ends_at, one.reports, commits[-1].last_seq))
        hanging = asyncio.create_task(Calls(uplink.servers).remove_endpoint(pb.RemoveEndpointRequest(node=NODE)))
        await eventually(lambda: one.removing == 1)
        await uplink.servers.all[0].renew()
        with pytest.raises(ControlPlaneAway, match="given up"):
            await hanging
        one.reports.clear()
        await eventually(functools.partial(_ends_at, one.reports, commits[-1].last_seq))
        await eventually(lambda: len(one.subscriptions) == 2)


async def test_a_hanging_call_ends_in_time(replicas: Any) -> None:
    servers = Servers([address(await replicas([])), address(await replicas([]))])
    started_at = asyncio.get_running_loop().time()
    try:
        with pytest.raises(ControlPlaneAway):
            await Calls(servers, deadline_s=0.6, attempt_s=0.4).remove_endpoint(pb.RemoveEndpointRequest(node=NODE))
    finally:
        await servers.close()
    assert asyncio.get_running_loop().time() - started_at < 1.5
