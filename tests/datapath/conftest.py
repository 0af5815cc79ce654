"""One loaded datapath for all of a session, and how many checks were made."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.datapath.kernel import Kernel
from tests.datapath.places import MASQUERADING
from tests.datapath.setup import loaded_kernel


@pytest.fixture(scope="session", autouse=True)
def _objects() -> None:
    if os.geteuid() != 0:
        pytest.skip("root is missing")
    subprocess.run(["make", "-s", "-C", str(Path(__file__).parents[2] / "bpf")], check=True)


@pytest.fixture(scope="session")
def kernel(name_prefix: str, _objects: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with loaded_kernel(f"{name_prefix}-datapath", tmp_path_factory.mktemp("shim")) as kernel:
        yield kernel


@pytest.fixture(scope="session")
def masquerading(name_prefix: str, _objects: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with loaded_kernel(f"{name_prefix}-masq", tmp_path_factory.mktemp("shim"), MASQUERADING) as kernel:
        yield kernel
