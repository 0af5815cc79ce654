"""The client's words against a real etcd."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest

from kilim.kvstore import transaction
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.endpoints import parse_endpoint
from kilim.kvstore.errors import Compacted, FutureRevision, LeaseLost, Rejected, TooLarge, Unavailable
from kilim.kvstore.keyvalue import prefix_range

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize(
    ("text", "tls", "expected"),
    [
        ("http://h:1", False, ("h:1", False)),
        ("https://h:1/", False, ("h:1", True)),
        ("h:1", False, ("h:1", False)),
        ("h:1", True, ("h:1", True)),
        ("http://[::1]:2", False, ("[::1]:2", False)),
    ],
)
async def test_endpoints_are_parsed(text: str, tls: bool, expected: tuple[str, bool]) -> None:
    assert parse_endpoint(text, tls=tls) == expected


@pytest.mark.parametrize("text", ["", "h", "h:", "h:x", "h:0", "h:70000", "ftp://h:1", ":1"])
async def test_other_endpoints_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="etcd endpoint"):
        parse_endpoint(text, tls=False)


async def test_plain_http_is_refused_where_tls_is_asked_for() -> None:
    with pytest.raises(ValueError, match="TLS"):
        parse_endpoint("http://h:1", tls=True)


async def test_put_get_delete(client: EtcdClient, cluster: str) -> None:
    assert await client.get(cluster) is None
    revision = await client.put(cluster, b"value")
    found = await client.get(cluster)
    assert found is not None
    assert (found.value, found.mod_revision, found.create_revision) == (b"value", revision, revision)
    assert await client.delete(cluster)
    assert not await client.delete(cluster)
    old = await client.get(cluster, revision=revision)
    assert old == found


async def test_ranges_are_bounded_limited_and_pinned(client: EtcdClient, cluster: str) -> None:
    for n in range(5):
        revision = await client.put(f"{cluster}/{n}", b"%d" % n)
    await client.put(f"{cluster}/5", b"5")
    assert [kv.value for kv in (await client.get_prefix(f"{cluster}/")).kvs] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert (await client.get_prefix(f"{cluster}/", revision=revision)).count == 5
    part = await client.get_range(f"{cluster}/1", f"{cluster}/5", limit=2)
    assert ([kv.value for kv in part.kvs], part.more, part.count) == ([b"1", b"2"], True, 4)
    assert await client.delete_range(*prefix_range(f"{cluster}/")) == 6


async def test_prefix_ranges() -> None:
    assert prefix_range("a/") == (b"a/", b"a0")
    assert prefix_range(b"a\xff") == (b"a\xff", b"b")
    assert prefix_range("") == (b"\0", b"\0")


async def test_large_answers_are_taken(client: EtcdClient, cluster: str) -> None:
    for n in range(6):
        await client.put(f"{cluster}/{n}", bytes(1_000_000))
    found = await client.get_prefix(f"{cluster}/")
    assert sum(len(kv.value) for kv in found.kvs) == 6_000_000
    await client.delete_range(*prefix_range(f"{cluster}/"))


async def test_transactions_branch(client: EtcdClient, cluster: str) -> None:
    guard = [transaction.mod_revision_is(cluster, 0)]
    success = [transaction.put(cluster, b"first")]
    failure = [transaction.get(cluster)]
    first = await client.transaction(guard, success, failure)
    assert first.succeeded
    second = await client.transaction(guard, success, failure)
    assert not second.succeeded
    assert [kv.mod_revision for kv in second.found[0]] == [first.revision]
    assert (
        await client.transaction([transaction.value_is(cluster, b"first")], [transaction.delete(cluster)])
    ).succeeded
    assert await client.get(cluster) is None


async def test_refusals_have_names(client: EtcdClient, cluster: str) -> None:
    with pytest.raises(TooLarge):
        await client.put(cluster, bytes(2_000_000))
    with pytest.raises(TooLarge):
        await client.transaction([], [transaction.put(f"{cluster}/{n}", b"") for n in range(129)])
    with pytest.raises(FutureRevision):
        await client.get(cluster, revision=1 << 40)
    with pytest.raises(Rejected):
        await client.transaction([], [transaction.put(cluster, b"1"), transaction.put(cluster, b"2")])
    with pytest.raises(LeaseLost):
        await client.put(cluster, b"", lease=12345)


async def test_a_watch_begins_at_its_revision(client: EtcdClient, cluster: str) -> None:
    first = await client.put(cluster, b"1")
    await client.put(cluster, b"2")
    await client.delete(cluster)
    events = []
    async with contextlib.aclosing(client.watch_range(cluster, b"", first)) as batches:
        async for batch in batches:
            events += batch
            if len(events) == 3:
                break
    assert [(event.is_delete, event.kv.value) for event in events] == [(False, b"1"), (False, b"2"), (True, b"")]
    assert [event.kv.mod_revision for event in events] == [first, first + 1, first + 2]


async def test_a_watch_from_now_brings_what_comes(client: EtcdClient, cluster: str) -> None:
    async with contextlib.aclosing(client.watch_prefix(cluster)) as batches:
        pending = asyncio.ensure_future(anext(batches))
        # Until it is created nothing tells, so write until it brings something.
        while not pending.done():
            await client.put(cluster, b"")
        assert (await pending)[0].kv.key == cluster.encode()


async def test_compacted_revisions(client: EtcdClient, cluster: str) -> None:
    first = await client.put(cluster, b"1")
    last = await client.put(cluster, b"2")
    await client.maintenance.compact(last)
    await client.maintenance.compact(first)
    with pytest.raises(Compacted):
        await client.get(cluster, revision=first)
    with pytest.raises(Compacted) as compacted:
        await anext(client.watch_range(cluster, b"", first))
    assert compacted.value.compact_revision == last


async def test_leases_hold_and_drop(client: EtcdClient, cluster: str) -> None:
    lease = await client.lease(60)
    await client.put(cluster, b"", lease=lease.id)
    await lease.refresh(5.0)
    assert lease.is_live
    await lease.revoke()
    assert await client.get(cluster) is None
    assert not lease.is_live
    with pytest.raises(LeaseLost):
        await lease.refresh(5.0)
    await lease.revoke()


async def test_status_members_and_maintenance(client: EtcdClient, etcd: EmbeddedEtcd) -> None:
    (status,) = await client.status()
    assert status.error == "" and status.is_leader and status.db_bytes >= status.db_in_use_bytes > 0
    assert [one.client_urls for one in await client.maintenance.members()] == [tuple(etcd.endpoints)]
    await client.maintenance.defragment(etcd.endpoints[0])
    assert list(await client.maintenance.alarms()) == []
    await client.maintenance.disarm_nospace()


async def test_a_dead_endpoint_is_passed_over(etcd: EmbeddedEtcd, cluster: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{closed.getsockname()[1]}"
        client = EtcdClient([dead, *etcd.endpoints])
        started = time.monotonic()
        await client.put(cluster, b"")
        assert time.monotonic() - started < 1.0
        status = {one.endpoint: one for one in await client.status()}
        assert status[dead].error and not status[etcd.endpoints[0]].error
        await client.close()


async def test_a_silent_endpoint_costs_one_attempt(etcd: EmbeddedEtcd, cluster: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client = EtcdClient([f"127.0.0.1:{silent.getsockname()[1]}", *etcd.endpoints])
        started = time.monotonic()
        await client.put(cluster, b"")
        assert time.monotonic() - started < 3.0
        started = time.monotonic()
        for _ in range(5):
            await client.put(cluster, b"")
        assert time.monotonic() - started < 1.0
        await client.close()


async def test_nobody_there_is_unavailable(cluster: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        client = EtcdClient([f"127.0.0.1:{closed.getsockname()[1]}"])
        with pytest.raises(Unavailable):
            await client.transaction([], [transaction.put(cluster, b"")], timeout_s=0.3)
        await client.close()
