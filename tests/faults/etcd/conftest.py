"""An etcd to be hurt, and a relay before it that can lose its answers.

Easy to get wrong: every test has an etcd of its own here, on its own event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.embedded import EmbeddedEtcd


class Relay:
    """Passes TCP on. While `answers` is clear what comes back is held, as by a network that broke one way."""

    def __init__(self, target: str) -> None:
        split = urlsplit(target)
        self._target = (split.hostname, split.port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.answers = asyncio.Event()
        self.answers.set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    @property
    def endpoint(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    def drop_connections(self) -> None:
        """What was held is lost."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.drop_connections()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection(*self._target)
            self._writers |= {writer, back}
            for task in (
                asyncio.create_task(self._pass(reader, back, None)),
                asyncio.create_task(self._pass(there, writer, self.answers)),
            ):
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event | None) -> None:
        try:
            while data := await source.read(65536):
                if gate is not None:
                    await gate.wait()
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(sink)
            sink.transport.abort()


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncIterator[EmbeddedEtcd]:
    async with EmbeddedEtcd(tmp_path) as running:
        yield running


@pytest.fixture
async def client(etcd: EmbeddedEtcd) -> AsyncIterator[EtcdClient]:
    one = EtcdClient(etcd.endpoints)
    yield one
    await one.close()


@pytest.fixture
async def relay(etcd: EmbeddedEtcd) -> AsyncIterator[Relay]:
    one = Relay(etcd.endpoints[0])
    await one.start()
    yield one
    await one.stop()
