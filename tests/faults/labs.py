"""A lab for a folder of tests, and a stage on it for each of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager

from kilim.lab import api, cluster
from kilim.lab.topology import Lab
from tests.faults.cluster.stage import Stage


def lab_while_tested(name: str, come_up: Callable[[str], Coroutine[None, None, Lab]]) -> Iterator[Lab]:
    """Gone afterwards, however far it came."""
    cluster.check_machine()
    try:
        yield asyncio.run(come_up(name))
    finally:
        api.down(name)


@asynccontextmanager
async def mended_stage(lab: Lab) -> AsyncIterator[Stage]:
    """After a test that succeeded everything is mended and must agree."""
    stage = Stage(lab)
    try:
        yield stage
        await stage.mend()
    finally:
        await stage.close()
