"""A replica as a process of its own: embedded etcd, Unix socket, SIGTERM, kill -9, wrong settings."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import controlplane_pb2_grpc as rpc
from tests.contract.controlplane.harness import PATIENCE_S

pytestmark = pytest.mark.asyncio(loop_scope="session")

MAIN = """
import sys
from pathlib import Path
from kilim.controlplane.runtime import Settings, run
embedded = Path(sys.argv[1]) if sys.argv[1] else None
sys.exit(run(Settings("r1", embedded_etcd=embedded, listen=tuple(sys.argv[2:]), log_format="json")))
"""


@contextlib.asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", MAIN, *arguments, stderr=asyncio.subprocess.PIPE)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await asyncio.wait_for(child.communicate(), PATIENCE_S)


async def change(socket: str, value: str) -> int:
    """Through the socket, as soon as the replica takes it."""
    async with grpc.aio.insecure_channel(socket) as channel:
        request = api.ChangeSettingRequest(name="identity-release-grace-s", value=value)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    answer = await rpc.ClusterStub(channel).ChangeSetting(request, wait_for_ready=True)
                    return int(answer.seq)
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_it_survives_kill_9_and_ends_well_on_sigterm(tmp_path: Path) -> None:
    socket = f"unix:{tmp_path}/r.sock"
    async with process(str(tmp_path / "etcd"), socket, "127.0.0.1:0") as first:
        assert await change(socket, "1") == 1
        assert stat.S_IMODE(os.stat(tmp_path / "r.sock").st_mode) == 0o600
        first.kill()
        await first.wait()
    async with process(str(tmp_path / "etcd"), socket, "127.0.0.1:0") as second:
        assert await change(socket, "1") == 1
        assert await change(socket, "2") == 2
        second.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(second.communicate(), PATIENCE_S)
        assert second.returncode == 0, log.decode()
        assert b'"event": "replica stops"' in log


@pytest.mark.parametrize(
    ("etcd", "listen", "words"),
    [("", "127.0.0.1:0", b"exactly one of"), ("etcd", "192.0.2.1:1", b"cannot listen on 192.0.2.1:1")],
)
async def test_it_says_why_it_cannot_start(tmp_path: Path, etcd: str, listen: str, words: bytes) -> None:
    async with process(str(tmp_path / etcd) if etcd else "", listen) as child:
        _, log = await asyncio.wait_for(child.communicate(), PATIENCE_S)
        assert child.returncode == 1
        assert words in log
