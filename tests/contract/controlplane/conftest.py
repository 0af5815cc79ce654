"""One real etcd for the contract tests of the control plane; a cluster name of its own for each test."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from kilim.kvstore.embedded import EmbeddedEtcd

_names = itertools.count(1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def etcd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedEtcd]:
    folder: Path = tmp_path_factory.mktemp("etcd")
    async with EmbeddedEtcd(folder) as running:
        yield running


@pytest.fixture
def cluster() -> str:
    return f"cp{next(_names)}"
