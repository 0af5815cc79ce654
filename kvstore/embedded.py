"""A real etcd as a child process of ours: `--embedded-etcd DIR`, the lab's members, the tests.

Easy to get wrong: `stop()` must be awaited. Killed without it we leave an etcd running; it harms nobody, and the next
`start()` on the same directory ends it. Whoever reaches the client port owns the store: there is no password on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from kilim.kvstore.child import Child, end_orphans, find_binary, start_child
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.errors import NoEtcd
from kilim.kvstore.etcd_flags import QUOTA_BYTES, store_flags

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_READY_S = 30.0
_PROBE_PAUSE_S = 0.03
_DEATHS_BEFORE_READY = 3
_RESTART_FIRST_S = 0.1
_RESTART_MOST_S = 10.0
# Ran at least this long: the next death is a new trouble, not the same one.
_STEADY_S = 30.0


@dataclass(frozen=True, slots=True)
class Ports:
    client: int
    peer: int


def _free_port(address: str, wanted: int | None) -> int:
    """Also tells whether a wanted port is free."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections of the last etcd in TIME_WAIT are no hindrance to the next.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, wanted or 0))
        port: int = probe.getsockname()[1]
        return port


class EmbeddedEtcd:
    """`async with EmbeddedEtcd(dir) as etcd: EtcdClient(etcd.endpoints)`.

    For a cluster give each member `name`, `bind_address`, both ports and the same `initial_cluster`
    (`etcd1=http://10.0.0.1:2380,etcd2=…`), and start them together: `start()` returns when there is a leader.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        name: str = "default",
        bind_address: str = "127.0.0.1",
        client_port: int | None = None,
        peer_port: int | None = None,
        initial_cluster: str | None = None,
        binary: str | None = None,
        quota_bytes: int = QUOTA_BYTES,
    ) -> None:
        if initial_cluster is not None and (client_port is None or peer_port is None):
            raise ValueError("a member of a cluster needs its client_port and peer_port given")
        self._dir = Path(data_dir).resolve()
        self._name = name
        self._address = bind_address
        self._wanted = (client_port, peer_port)
        self._initial_cluster = initial_cluster
        self._binary = binary
        self._quota_bytes = quota_bytes
        self._ports: Ports | None = None
        self._child: Child | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._lock_fd: int | None = None
        self._deaths = 0

    @property
    def endpoints(self) -> list[str]:
        if self._ports is None:
            raise RuntimeError("etcd was not started yet")
        return [self._url(self._ports.client)]

    @property
    def pid(self) -> int | None:
        """None while there is none. Another one after a restart."""
        return self._child.pid if self._child is not None and self._child.is_running else None

    def _url(self, port: int) -> str:
        host = f"[{self._address}]" if ":" in self._address else self._address
        return f"http://{host}:{port}"

    async def start(self) -> None:
        """Returns when it answers; restarted by itself from then on. Raises NoEtcd."""
        self._binary = self._binary or find_binary()
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock()
        try:
            await end_orphans(self._data_argument)
            self._ports = self._choose_ports()
            self._spawn()
            self._supervisor = asyncio.create_task(self._supervise(), name="etcd supervisor")
            await self._wait_ready()
        except BaseException:
            await self.stop()
            raise
        log.info("etcd started", pid=self.pid, endpoint=self.endpoints[0], data_dir=str(self._dir))

    async def stop(self) -> None:
        """Returns when the process is gone."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None
        if self._child is not None:
            await self._child.end()
            self._child = None
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _lock(self) -> None:
        """Held by us, not by etcd: it tells a living owner from an orphaned etcd."""
        self._lock_fd = os.open(self._dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock_fd)
            self._lock_fd = None
            raise NoEtcd(f"{self._dir} is in use by another process that runs an embedded etcd") from error

    @property
    def _data_argument(self) -> str:
        return f"--data-dir={self._dir / 'etcd'}"

    def _choose_ports(self) -> Ports:
        """Those given; else those of the last time, so that clients find us again; else free ones."""
        record = self._dir / "ports.json"
        client, peer = self._wanted
        try:
            last = json.loads(record.read_text())
            remembered = (int(last["client"]), int(last["peer"]))
        except (OSError, ValueError, KeyError, TypeError):
            remembered = (0, 0)
        ports = Ports(
            client or self._port_or_other(remembered[0]),
            peer or self._port_or_other(remembered[1]),
        )
        record.write_text(json.dumps({"client": ports.client, "peer": ports.peer}))
        return ports

    def _port_or_other(self, port: int) -> int:
        try:
            return _free_port(self._address, port)
        except OSError:
            return _free_port(self._address, None)

    def _command(self, ports: Ports) -> list[str]:
        client_url, peer_url = self._url(ports.client), self._url(ports.peer)
        # Alone there is nobody to elect but it waits for it all the same, up to 1.1 s after every restart.
        ticks = [] if self._initial_cluster else ["--heartbeat-interval=50", "--election-timeout=500"]
        return [
            self._binary or "etcd",
            self._data_argument,
            f"--name={self._name}",
            f"--listen-client-urls={client_url}",
            f"--advertise-client-urls={client_url}",
            f"--listen-peer-urls={peer_url}",
            f"--initial-advertise-peer-urls={peer_url}",
            f"--initial-cluster={self._initial_cluster or f'{self._name}={peer_url}'}",
            *store_flags(self._quota_bytes),
            "--logger=zap",
            "--log-level=warn",
            *ticks,
        ]

    def _spawn(self) -> None:
        assert self._ports is not None
        self._child = start_child(self._command(self._ports), self._dir / "etcd.log")

    async def _supervise(self) -> None:
        pause_s = _RESTART_FIRST_S
        while True:
            child = self._child
            assert child is not None
            started = time.monotonic()
            await child.wait_end()
            self._deaths += 1
            if time.monotonic() - started > _STEADY_S:
                pause_s = _RESTART_FIRST_S
            log.error("etcd ended", pid=child.pid, status=child.exit_status, last_words=self._last_words())
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _RESTART_MOST_S)
            self._spawn()
            log.info("etcd restarted", pid=self.pid)

    def _last_words(self) -> str:
        try:
            lines = (self._dir / "etcd.log").read_bytes()[-4096:].decode(errors="replace").splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else ""

    async def _wait_ready(self) -> None:
        client = EtcdClient(self.endpoints)
        deadline = time.monotonic() + _READY_S
        try:
            while not (await client.status())[0].leader_id:
                if self._deaths >= _DEATHS_BEFORE_READY or time.monotonic() > deadline:
                    raise NoEtcd(f"etcd does not start, see {self._dir / 'etcd.log'}: {self._last_words()}")
                # There is nothing to wait on: that a member has found its leader shows only in its answers.
                await asyncio.sleep(_PROBE_PAUSE_S)  # noqa: ASYNC110
        finally:
            await client.close()
