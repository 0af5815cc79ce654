"""What the agents say: the latest report of each node, kept as long as its stream lives and, as "down", after it.

Easy to get wrong: a report may be ahead of this replica. Its digest is compared once we are there too; a difference
found is an alarm that stays in status until the node reports a digest that agrees.
"""

import asyncio
import time
from dataclasses import dataclass

import structlog

from kilim.controlplane.replica import Replica
from kilim.v1 import controlplane_pb2 as api

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

FIND_US_S = 3.0  # agents try again every 2 s at most


@dataclass(slots=True, eq=False)
class Heard:
    """Of one node. `match` is None while its digest at `report.seq` has not been compared."""

    report: api.NodeReport
    at_s: float
    streams: int = 0
    match: bool | None = None
    mismatch: str = ""


class Reports:
    """One per replica; `updated` is waited on by whoever waits for nodes."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._of: dict[str, Heard] = {}
        self._early: dict[str, Heard] = {}
        self._changed = asyncio.Event()
        self._since_s = time.monotonic()
        replica.on_applied.append(self._compare_early)

    def of(self, node: str) -> Heard | None:
        return self._of.get(node)

    def is_up(self, node: str) -> bool:
        heard = self._of.get(node)
        return heard is not None and heard.streams > 0

    def is_awaited(self, node: str) -> bool:
        """Its agent has not been heard yet, and not had the time to find this replica since it began to serve."""
        return node not in self._of and time.monotonic() - self._since_s < FIND_US_S

    def enforced_seq(self, node: str) -> int:
        heard = self._of.get(node)
        return heard.report.seq if heard is not None else 0

    async def wait(self) -> None:
        """Returns at the next report, and at the end of a node's stream."""
        await self._changed.wait()

    def open(self, node: str) -> None:
        heard = self._of.setdefault(node, Heard(api.NodeReport(node=node), time.monotonic()))
        heard.streams += 1
        _logger.info("agent reports", node=node, streams=heard.streams)

    def close(self, node: str) -> None:
        heard = self._of[node]
        heard.streams -= 1
        if heard.streams == 0:
            _logger.warning("agent gone", node=node, seq=heard.report.seq)
            if node not in self._replica.state.nodes:
                del self._of[node]
                self._early.pop(node, None)
        self._wake()

    def take(self, report: api.NodeReport) -> None:
        heard = self._of[report.node]
        heard.report, heard.at_s, heard.match = report, time.monotonic(), None
        self._compare(report.node, heard)
        self._wake()

    def problems(self) -> list[str]:
        """Digest differences, one line each."""
        known = [(node, heard) for node, heard in sorted(self._of.items()) if node in self._replica.state.nodes]
        return [f"node {node}: {heard.mismatch}" for node, heard in known if heard.mismatch]

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _compare(self, node: str, heard: Heard) -> None:
        seq = heard.report.seq
        if seq > self._replica.seq:
            self._early[node] = heard
            return
        self._early.pop(node, None)
        ours = self._replica.history.digest_at(seq)
        if ours is None or not heard.report.state_digest:
            return
        theirs = heard.report.state_digest
        heard.match = ours == theirs
        if heard.match:
            heard.mismatch = ""
            return
        heard.mismatch = f"state digest at seq {seq} is {theirs.hex()}, this replica has {ours.hex()}"
        _logger.error("state digests differ", node=node, seq=seq, theirs=theirs.hex(), ours=ours.hex())

    def _compare_early(self) -> None:
        for node, heard in list(self._early.items()):
            if heard.report.seq <= self._replica.seq:
                self._compare(node, heard)
