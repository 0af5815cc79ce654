"""One lab for all variants."""

from collections.abc import AsyncIterator, Iterator

import pytest

from kilim.lab.topology import Lab
from tests.faults.churn.lab import probed_lab
from tests.faults.cluster.stage import Stage
from tests.faults.labs import lab_while_tested, mended_stage


@pytest.fixture(scope="session")
def churn_lab(name_prefix: str) -> Iterator[Lab]:
    yield from lab_while_tested(f"{name_prefix}-churn", probed_lab)


@pytest.fixture
async def stage(churn_lab: Lab) -> AsyncIterator[Stage]:
    async with mended_stage(churn_lab) as stage:
        yield stage
