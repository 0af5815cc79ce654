"""A lab in each routing mode, and other versions of the datapath."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kilim.lab.topology import Lab
from tests.faults.churn.lab import probed_lab
from tests.faults.cluster.stage import Stage
from tests.faults.labs import lab_while_tested, mended_stage
from tests.faults.restart.versions import REBUILT, WIDER_CONNECTIONS, build, environment

MODES = {
    "tunnel": {"KILIM_AGENT_ROUTING_MODE": "tunnel"},
    "native": {"KILIM_AGENT_ROUTING_MODE": "native", "KILIM_AGENT_AUTO_DIRECT_NODE_ROUTES": "true"},
}


@pytest.fixture(scope="session")
def restart_lab(name_prefix: str, routing_mode: str) -> Iterator[Lab]:
    with environment(**MODES[routing_mode]):  # of whatever is started again, too
        yield from lab_while_tested(f"{name_prefix}-rs{routing_mode[0]}", probed_lab)


@pytest.fixture(scope="session")
def routing_mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def stage(restart_lab: Lab) -> AsyncIterator[Stage]:
    async with mended_stage(restart_lab) as stage:
        yield stage


@pytest.fixture(scope="session")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | None]:
    """By name; nothing is this one."""
    directory = tmp_path_factory.mktemp("versions")
    return {
        "this": None,
        "rebuilt": build(directory / "rebuilt", REBUILT),
        "wider connections": build(directory / "wider", WIDER_CONNECTIONS),
    }
