"""A real etcd as a child process of ours."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self


class EmbeddedEtcd:
    """`async with EmbeddedEtcd(dir) as etcd: EtcdClient(etcd.endpoints)`."""

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
    ) -> None:
        raise NotImplementedError

    @property
    def endpoints(self) -> list[str]:
        raise NotImplementedError

    @property
    def pid(self) -> int | None:
        raise NotImplementedError

    async def start(self) -> None:
        """Returns when it answers; restarted by itself from then on."""
        raise NotImplementedError

    async def stop(self) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
