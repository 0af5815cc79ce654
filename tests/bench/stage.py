"""A lab for one benchmark: up before, down after, whatever happens between."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kilim.lab.cluster import ClusterSpec, bring_up, take_down
from kilim.lab.topology import Lab, default_node_plans


@asynccontextmanager
async def stage(nodes: int, replicas: int = 3) -> AsyncIterator[Lab]:
    """A cluster without pods."""
    name = f"bench{os.getpid()}"
    try:
        yield await bring_up(ClusterSpec(name, default_node_plans(nodes), replicas))
    finally:
        take_down(name)
