"""An etcd and replicas of the control plane for one benchmark, on loopback: no lab, no network namespaces, no root."""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import grpc

from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import controlplane_pb2_grpc as rpc
from tests.bench.measure import RESULTS
from tests.bench.netload import BenchError

CLUSTER = "bench"
_READY_S = 60.0
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ReplicaProcess:
    address: str
    pid: int

    def cpu_s(self) -> float:
        return cpu_s(self.pid)


@dataclass(frozen=True, slots=True)
class Plane:
    etcd: tuple[str, ...]
    replicas: tuple[ReplicaProcess, ...]
    folder: Path


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


@asynccontextmanager
async def plane(replicas: int) -> AsyncIterator[Plane]:
    """Ready to serve; the data is on the disk that the tree is on, as a rival's is."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=RESULTS, prefix="plane-")))
        etcd = await stack.enter_async_context(EmbeddedEtcd(folder / "etcd"))
        running = [
            await stack.enter_async_context(_replica(f"r{number}", etcd.endpoints, folder))
            for number in range(1, replicas + 1)
        ]
        yield Plane(tuple(etcd.endpoints), tuple(running), folder)


@asynccontextmanager
async def _replica(name: str, etcd: list[str], folder: Path) -> AsyncIterator[ReplicaProcess]:
    address = f"127.0.0.1:{free_port()}"
    with _log_file(folder / f"{name}.log") as log:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("kilim")), "controlplane", "--name", name, "--cluster", CLUSTER,
            "--etcd-endpoints", ",".join(etcd), "--listen", address, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        await _wait_ready(address)
        yield ReplicaProcess(address, process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _log_file(path: Path) -> BinaryIO:
    return path.open("wb")


async def _wait_ready(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        status = rpc.ClusterStub(channel).Status  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(_READY_S):
                while not _is_loaded(await status(api.StatusRequest(), wait_for_ready=True)):  # noqa: ASYNC110  # only asking tells
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise BenchError(f"the replica at {address} does not answer within {_READY_S:g} s") from None


def _is_loaded(status: api.StatusResponse) -> bool:
    return not any("has not read" in problem for problem in status.problems)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
