"""One real etcd for the contract tests of the control plane; a cluster name of its own for each test."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from kilim.controlplane import runtime
from kilim.controlplane.replica import Replica
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


@pytest.fixture
def replicas(monkeypatch: pytest.MonkeyPatch) -> list[Replica]:
    """Those that the test's processes are made of, in the order of their start."""
    made: list[Replica] = []

    class Remembered(Replica):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(runtime, "Replica", Remembered)
    monkeypatch.setattr("kilim.controlplane.agreement.LOOK_EVERY_S", 0.05)
    monkeypatch.setattr("kilim.controlplane.auditor.LOOK_EVERY_S", 0.05)
    return made
