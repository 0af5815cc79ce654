"""Compaction, defragmentation and alarms on a cluster of three, and by a user who may do little else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.errors import Denied, NoSpace
from kilim.kvstore.log import EventLog
from kilim.kvstore.snapshots import SnapshotStore

_QUOTA_BYTES = 6 << 20


@contextlib.asynccontextmanager
async def _three_members(folder: Path) -> AsyncIterator[list[EmbeddedEtcd]]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(6)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    cluster = ",".join(f"m{n}=http://127.0.0.1:{ports[n]}" for n in range(3))
    members = [
        EmbeddedEtcd(
            folder / f"m{n}",
            name=f"m{n}",
            peer_port=ports[n],
            client_port=ports[3 + n],
            initial_cluster=cluster,
            quota_bytes=_QUOTA_BYTES,
        )
        for n in range(3)
    ]
    try:
        await asyncio.gather(*(member.start() for member in members))
        yield members
    finally:
        await asyncio.gather(*(member.stop() for member in members))


def _etcdctl(endpoint: str, lines: tuple[str, ...]) -> None:
    for line in lines:
        command = ["etcdctl", "--endpoints", endpoint, *line.split()]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "ETCDCTL_API": "3"})


async def _fill_and_make_space(client: EtcdClient, admin: EtcdClient, endpoints: list[str]) -> None:
    log, store = EventLog(client), SnapshotStore(client)
    _, head = await log.append(await log.head(), [b"1"])
    with pytest.raises(NoSpace):
        for seq in range(1, 1000):
            await store.publish(seq, bytes(32), bytes(32), 0, [[bytes(400_000)]])
    with pytest.raises(NoSpace):
        await log.append(head, [b"2"])
    assert {alarm for _, alarm in await client.maintenance.alarms()} == {"NOSPACE"}
    assert any(status.alarms for status in await client.status())
    for manifest in await store.manifests():
        await store.delete(manifest.seq)
    await store.sweep()
    revision = (await client.get_prefix("/kilim/v1/")).revision
    await client.maintenance.compact(revision, physical=True)
    await client.maintenance.compact(revision, physical=True)
    before = await client.status()
    await client.maintenance.wait_compacted()
    for status in sorted(before, key=lambda one: one.is_leader):
        await admin.maintenance.defragment(status.endpoint)
    after = await client.status()
    assert [one.endpoint for one in after] == endpoints
    assert all(new.db_bytes < old.db_bytes / 2 for new, old in zip(after, before, strict=True))
    await client.maintenance.disarm_nospace()
    assert await client.maintenance.alarms() == []
    _, head = await log.append(head, [b"2"])
    assert (await log.trim(2)).first_seq == 2


async def test_three_members(tmp_path: Path) -> None:
    async with _three_members(tmp_path) as members:
        endpoints = [endpoint for member in members for endpoint in member.endpoints]
        client = EtcdClient(endpoints)
        assert sorted(member.name for member in await client.maintenance.members()) == ["m0", "m1", "m2"]
        assert sum(status.is_leader for status in await client.status()) == 1
        await _fill_and_make_space(client, client, endpoints)
        await client.close()


@pytest.mark.skipif(shutil.which("etcdctl") is None, reason="etcdctl is missing (Debian: etcd-client)")
async def test_with_a_password_and_without_tls(tmp_path: Path) -> None:
    """etcd lets nobody but its root defragment; the rest a user with only his own keys may do."""
    async with _three_members(tmp_path) as members:
        endpoints = [endpoint for member in members for endpoint in member.endpoints]
        lines = (
            "user add root:secret",
            "user grant-role root root",
            "role add kilim",
            "role grant-permission kilim --prefix=true readwrite /kilim/",
            "user add kilim:word",
            "user grant-role kilim kilim",
            "auth enable",
        )
        await asyncio.to_thread(_etcdctl, endpoints[0], lines)
        client = EtcdClient(endpoints, user="kilim", password="word")
        admin = EtcdClient(endpoints, user="root", password="secret")
        with pytest.raises(Denied):
            await client.maintenance.defragment(endpoints[0])
        await _fill_and_make_space(client, admin, endpoints)
        with pytest.raises(Denied):
            await client.put("/other", b"")
        for status in [one for one in await client.status() if not one.is_leader]:
            pid = members[endpoints.index(status.endpoint)].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            while any("failed to connect" in one.error or not one.leader_id for one in await client.status()):
                assert not any("auth" in one.error for one in await client.status())
        await client.close()
        await admin.close()
