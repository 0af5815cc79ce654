"""What of an agent depends on how packets go, as a protocol: pods on veth pairs (agent/veth_datapath.py), or rows in
memory where there is no kernel to write (agent/memory_tables.py).

Easy to get wrong: `attach` comes after the rows of the cache are written (I6), `restore` before.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kilim.agent.api import KernelDump
from kilim.agent.calls import Calls
from kilim.agent.connections import Connections
from kilim.agent.enforcement import Enforcement
from kilim.agent.flows import Counted, Flows
from kilim.agent.health.health import Health
from kilim.agent.metrics import Pressure
from kilim.agent.tables import Kernel


class DatapathTables(Kernel, KernelDump, Pressure, Protocol):
    """Written by the enforcement, read by whoever asks."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The parts of the agent that a datapath works with. `connected`: whether a replica can be reached."""

    enforcement: Enforcement
    calls: Calls
    connected: Callable[[], bool]


class Datapath(Protocol):
    @property
    def tables(self) -> DatapathTables: ...
    @property
    def flows(self) -> Flows: ...
    @property
    def ifindex_of(self) -> Mapping[int, int]:
        """Live: local addresses and their interfaces; empty where there are no interfaces."""
        ...

    @property
    def health(self) -> Health | None:
        """From `restore` on; None: the other nodes are not probed."""
        ...

    @property
    def moved(self) -> asyncio.Event:
        """Set: the node is elsewhere now, and the agent has to start anew."""
        ...

    @property
    def connections(self) -> Connections | None:
        """None: packets are not tracked."""
        ...

    def counters(self) -> Iterable[Counted]: ...

    async def restore(self, neighbours: Neighbours) -> None:
        """Take up what an agent before this one left."""
        ...

    def attach(self) -> Mapping[str, object]:
        """From now on packets are judged by the tables; what to say of it in the log."""
        ...

    def work(self) -> dict[str, Coroutine[Any, Any, None]]:
        """Named work that goes on until it is cancelled."""
        ...
