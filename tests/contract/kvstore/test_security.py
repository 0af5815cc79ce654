"""Names, passwords and certificates against an etcd that asks for them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kilim.kvstore.child import find_binary, start_child
from kilim.kvstore.client import EtcdClient, Tls
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.errors import Denied, Unavailable

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing"),
    pytest.mark.skipif(shutil.which("etcdctl") is None, reason="etcdctl is missing (Debian: etcd-client)"),
]


def _etcdctl(endpoint: str, *arguments: str) -> None:
    command = ["etcdctl", "--endpoints", endpoint, *arguments]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "ETCDCTL_API": "3"})


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[EmbeddedEtcd]:
    """root may all, `kilim` only below /kilim/."""
    async with EmbeddedEtcd(tmp_path) as etcd:
        endpoint = etcd.endpoints[0]
        for line in (
            "user add root:secret",
            "user grant-role root root",
            "role add kilim",
            "role grant-permission kilim --prefix=true readwrite /kilim/",
            "user add kilim:word",
            "user grant-role kilim kilim",
            "auth enable",
        ):
            _etcdctl(endpoint, *line.split())
        yield etcd


@pytest.mark.asyncio(loop_scope="function")
async def test_user_and_password(guarded: EmbeddedEtcd) -> None:
    client = EtcdClient(guarded.endpoints, user="kilim", password="word")
    revision = await client.put("/kilim/a", b"1")
    with pytest.raises(Denied):
        await client.put("/other", b"1")
    with pytest.raises(Denied):
        await anext(client.watch_prefix("/other", 1))
    async with contextlib.aclosing(client.watch_prefix("/kilim/", revision)) as batches:
        assert [event.kv.value for event in await anext(batches)] == [b"1"]
        # Tokens live in etcd's memory only: the restart makes ours an old one, for calls and for the watch.
        assert guarded.pid is not None
        os.kill(guarded.pid, signal.SIGKILL)
        await client.put("/kilim/a", b"2")
        assert [event.kv.value for event in await anext(batches)] == [b"2"]
    lease = await client.lease(10)
    await lease.refresh(5.0)
    await lease.revoke()
    await client.close()


@pytest.mark.asyncio(loop_scope="function")
async def test_without_or_with_wrong_credentials(guarded: EmbeddedEtcd) -> None:
    for credentials in ({}, {"user": "kilim", "password": "wrong"}, {"user": "nobody", "password": "word"}):
        client = EtcdClient(guarded.endpoints, **credentials)
        with pytest.raises(Denied):
            await client.get("/kilim/a")
        with pytest.raises(Denied):
            await anext(client.watch_prefix("/kilim/", 1))
        await client.close()


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)


def _make_certificates(folder: Path) -> None:
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl(folder, "req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    (folder / "server.ext").write_text("subjectAltName=IP:127.0.0.1,DNS:etcd.example")
    (folder / "client.ext").write_text("extendedKeyUsage=clientAuth")
    for name in ("server", "client"):
        _openssl(folder, "req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        sign = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
        _openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", f"{name}.ext", *sign)


@pytest.mark.asyncio(loop_scope="function")
async def test_client_certificates(tmp_path: Path) -> None:
    _make_certificates(tmp_path)
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        port, peer = one.getsockname()[1], two.getsockname()[1]
    url = f"https://127.0.0.1:{port}"
    command = [find_binary(), f"--data-dir={tmp_path / 'etcd'}", f"--listen-client-urls={url}"]
    command += [f"--advertise-client-urls={url}", f"--listen-peer-urls=http://127.0.0.1:{peer}", "--client-cert-auth"]
    command += [
        f"--{flag}={tmp_path / name}" for flag, name in (("cert-file", "server.pem"), ("key-file", "server.key"))
    ]
    child = start_child([*command, f"--trusted-ca-file={tmp_path / 'ca.pem'}"], tmp_path / "etcd.log")
    ca, certificate, key = ((tmp_path / name).read_bytes() for name in ("ca.pem", "client.pem", "client.key"))
    try:
        client = EtcdClient([url], tls=Tls(ca, certificate, key))
        await client.put("key", b"1")
        await client.close()
        named = EtcdClient([f"127.0.0.1:{port}"], tls=Tls(ca, certificate, key, server_name="etcd.example"))
        assert (await named.get("key")) is not None
        await named.close()
        for refused in (Tls(ca), Tls(ca, certificate, key, server_name="other.example")):
            stranger = EtcdClient([url], tls=refused)
            with pytest.raises(Unavailable):
                await stranger.get_range("key", b"", timeout_s=0.5)
            await stranger.close()
    finally:
        await child.end()
