"""Datapaths under pin directories of their own."""

import os
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from kilim.agent.bpf.datapath import Datapath, Settings, load_objects, remove_all
from kilim.agent.bpf.objects import PROGRAMS, object_path
from tests.kernel.frames import FAMILY, NODE, ipv6_like
from tests.kernel.rig import Rig
from tests.kernel.wire import PORT

_numbers = count()


@pytest.fixture(scope="session", autouse=True)
def _objects() -> None:
    if os.geteuid() != 0:
        pytest.skip("root is missing")
    source = Path(__file__).parents[2] / "bpf"
    subprocess.run(["make", "-s", "-C", str(source)], check=True)
    assert all(object_path(program).exists() for program in PROGRAMS)


@pytest.fixture(params=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> Iterator[str]:
    """For both families; of tests that do not ask for it, IPv4."""
    FAMILY.is_ipv6 = request.param == "IPv6"
    yield request.param
    FAMILY.is_ipv6 = False


@pytest.fixture
def bpf_root(name_prefix: str) -> Iterator[Path]:
    root = Path(f"/sys/fs/bpf/{name_prefix}-{next(_numbers)}")
    yield root
    remove_all(root)


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings(
        NODE.ipv4,
        node_ipv6=ipv6_like(NODE.ipv4),
        underlay_ifindex=1,
        tunnel_ifindex=1,
        tunnel_port=PORT,
        ct_max_entries=4096,
        events_bytes=1 << 16,
    )


@pytest.fixture(scope="session")
def _shared(name_prefix: str, settings: Settings) -> Iterator[Datapath]:
    root = Path(f"/sys/fs/bpf/{name_prefix}-shared")
    try:
        datapath = load_objects(settings, root)
        yield datapath
        datapath.close()
    finally:
        remove_all(root)


@pytest.fixture
def rig(_shared: Datapath) -> Rig:
    """On a datapath that all tests share, emptied: verifying it anew takes longer than most of them."""
    return Rig(_shared)
