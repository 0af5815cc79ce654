"""A lab for one benchmark: up before, down after, whatever happens between."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kilim.lab.cluster import ClusterSpec, bring_up, take_down
from kilim.lab.topology import Lab, default_node_plans


@asynccontextmanager
async def stage(nodes: int, replicas: int = 3, mode: str = "", options: tuple[str, ...] = ()) -> AsyncIterator[Lab]:
    """A cluster without pods. `mode` tells two at the same time apart; `options` are the agents'."""
    name = f"bench{os.getpid()}{mode}"
    try:
        yield await bring_up(ClusterSpec(name, default_node_plans(nodes), replicas, agent_options=options))
    finally:
        take_down(name)
