"""One real etcd for all contract tests of this floor; a cluster name of its own for each test.

Easy to get wrong: the etcd lives on the session's event loop, so each module here says `loop_scope="session"`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from kilim.kvstore.child import find_orphans
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.log import EventLog

_names = itertools.count(1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def etcd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedEtcd]:
    folder: Path = tmp_path_factory.mktemp("etcd")
    async with EmbeddedEtcd(folder) as running:
        yield running
    assert find_orphans(f"--data-dir={folder / 'etcd'}") == []


@pytest_asyncio.fixture(loop_scope="session")
async def client(etcd: EmbeddedEtcd) -> AsyncIterator[EtcdClient]:
    before = asyncio.all_tasks()
    one = EtcdClient(etcd.endpoints)
    yield one
    await one.close()
    left = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
    if left:
        # gRPC's own end a moment after what they served.
        _, left = await asyncio.wait(left, timeout=2)
    assert not left, f"tasks left behind: {left}"


@pytest.fixture
def cluster() -> str:
    return f"test{next(_names)}"


@pytest.fixture
def log(client: EtcdClient, cluster: str) -> EventLog:
    return EventLog(client, cluster)
