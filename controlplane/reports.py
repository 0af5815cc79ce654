"""What the agents say: the latest report of each node, kept as long as its stream lives and, as "down", after it.

Easy to get wrong: a report may be ahead of this replica, and its table digest of the auditor. Digests are compared
when ours are there too; a difference found is an alarm that stays in status until the node reports one that agrees,
an agreement is one only while the node is heard.
"""

import asyncio
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter

import structlog

from kilim.controlplane.auditor import Auditor
from kilim.controlplane.compared import Compared
from kilim.controlplane.replica import Replica
from kilim.model.settings import READ_BACK_INTERVAL_S
from kilim.v1 import controlplane_pb2 as api

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

FIND_US_S = 3.0  # agents try again every 2 s at most
ARRIVALS_MAX = 8192
# A node that for so long reports what the log does not have, or digests that nothing can be compared with.
ODD_S = 30.0
# An agent repeats its report every second; from here on it hangs, or the way to it does.
SILENT_S = 5.0
# A kernel that was not read back for so many intervals, and so long: nobody knows what it holds now.
READINGS_MISSED, KERNEL_STALE_S = 10, 60.0
STATE, TABLES, KERNEL = "state", "tables", "kernel"
BEYOND = "beyond the log"
DIGEST_NAMES = {STATE: "state digest", TABLES: "table digest", KERNEL: "table digest read back from its kernel"}


@dataclass(slots=True, eq=False)
class Heard:
    """Of one node."""

    report: api.NodeReport
    at_s: float
    streams: int = 0
    kernel_heard_s: float = 0.0  # when we first heard of the last reading
    odd_since_s: dict[str, float] = field(default_factory=dict)  # what is odd -> since when
    compared: dict[str, Compared] = field(
        default_factory=lambda: {what: Compared(name) for what, name in DIGEST_NAMES.items()}
    )


class Reports:
    """One per replica; `updated` is waited on by whoever waits for nodes."""

    def __init__(self, replica: Replica, auditor: Auditor) -> None:
        self._replica = replica
        self._auditor = auditor
        self._of: dict[str, Heard] = {}
        self._uncompared: set[str] = set()  # nodes with digests that wait for ours
        self._changed = asyncio.Event()
        self._enforced_by_all = 0
        self._since_s = time.monotonic()
        self._arrivals: deque[tuple[int, float]] = deque(maxlen=ARRIVALS_MAX)  # last seq of a commit, when it came
        replica.on_applied.append(self._note_arrival)
        replica.on_applied.append(self._compare_early)
        auditor.on_advanced.append(self._compare_early)
        auditor.wanted = self._waited_for

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

    def lag_s(self, node: str) -> float:
        """Since when the first event that the node does not enforce is in this replica; 0: it enforces all."""
        enforced = self.enforced_seq(node)
        if enforced >= self._replica.seq:
            return 0.0
        index = bisect_right(self._arrivals, enforced, key=itemgetter(0))
        since_s = self._arrivals[index][1] if index < len(self._arrivals) else self._since_s
        return time.monotonic() - since_s

    async def wait(self) -> None:
        """Returns at the next report, and at the end of a node's stream."""
        await self._changed.wait()

    def behind(self, seq: int) -> dict[str, int]:
        """Nodes that are up and do not enforce `seq` yet, with what they do."""
        if seq <= self._enforced_by_all:
            return {}
        nodes = [node for node in self._replica.state.nodes if self.is_up(node) or self.is_awaited(node)]
        late = {node: enforced for node in nodes if (enforced := self.enforced_seq(node)) < seq}
        if nodes and not late:
            self._enforced_by_all = seq
        return late

    def open(self, node: str) -> None:
        heard = self._of.setdefault(node, Heard(api.NodeReport(node=node), time.monotonic()))
        heard.streams += 1
        heard.odd_since_s = {}
        self._enforced_by_all = 0
        _logger.info("agent reports", node=node, streams=heard.streams)

    def close(self, node: str) -> None:
        heard = self._of[node]
        heard.streams -= 1
        if heard.streams == 0:
            _logger.warning("agent gone", node=node, seq=heard.report.seq)
            if node not in self._replica.state.nodes:
                del self._of[node]
        self._wake()

    def take(self, report: api.NodeReport) -> None:
        heard = self._of[report.node]
        before, heard.report, heard.at_s = heard.report, report, time.monotonic()
        reading = (report.kernel_readings, report.kernel_seq)
        if report.kernel_seq and reading != (before.kernel_readings, before.kernel_seq):
            heard.kernel_heard_s = heard.at_s
        heard.compared[STATE].hear(report.seq, report.state_digest)
        heard.compared[TABLES].hear(report.seq, report.table_digest)
        if report.kernel_seq:
            heard.compared[KERNEL].hear(report.kernel_seq, report.kernel_digest)
        self._compare(report.node, heard)
        self._wake()

    def is_silent(self, heard: Heard) -> bool:
        """Connected, but not heard."""
        return heard.streams > 0 and time.monotonic() - heard.at_s > SILENT_S

    def verdict(self, heard: Heard, what: str) -> "api.Comparison.ValueType":
        """A difference stands until it is seen to have ended, a match for as long as the node is heard."""
        verdict = heard.compared[what].verdict
        return api.STALE if verdict == api.MATCH and self._is_stale(heard, what) else verdict

    def agreements(self) -> Iterator[tuple[str, str, bool | None]]:
        """(node, which digest, whether it is ours) of every node that is in the log; None: that is not known now."""
        for node, what, compared in self.compared():
            stale = compared.agrees and self._is_stale(self._of[node], what)
            yield node, what, None if stale else compared.agrees

    def _is_stale(self, heard: Heard, what: str) -> bool:
        if not heard.streams or self.is_silent(heard):
            return True
        patience_s = max(READINGS_MISSED * READ_BACK_INTERVAL_S.read(self._replica.state), KERNEL_STALE_S)
        return what == KERNEL and time.monotonic() - heard.kernel_heard_s > patience_s

    def compared(self) -> Iterator[tuple[str, str, Compared]]:
        """(node, which digest, what came of it) of every node that is in the log."""
        for node, heard in sorted(self._of.items()):
            if node in self._replica.state.nodes:
                for what, compared in heard.compared.items():
                    yield node, what, compared

    def problems(self) -> list[str]:
        """Digest differences, and digests that are never compared, one line each."""
        lines = [f"node {node}: {each.difference}" for node, _, each in self.compared() if each.difference]
        for node, heard in sorted(self._of.items()):
            if heard.streams and node in self._replica.state.nodes:
                lines += [f"node {node}: {odd}" for odd in self._odd(heard)]
        return lines

    def _odd(self, heard: Heard) -> Iterator[str]:
        now_s = time.monotonic()
        for what, since_s in heard.odd_since_s.items():
            if what == BEYOND and now_s - since_s >= ODD_S:
                yield (
                    f"reports event {heard.report.seq} for {now_s - since_s:.0f} s, "
                    f"this replica's log ends at {self._replica.seq}"
                )
            elif what != BEYOND and now_s - since_s >= self._patience_s(what):
                yield f"its {DIGEST_NAMES[what]} has not been compared for {now_s - since_s:.0f} s"

    def _patience_s(self, what: str) -> float:
        """A digest that is read back is as old as the interval says."""
        return ODD_S + (2 * READ_BACK_INTERVAL_S.read(self._replica.state) if what == KERNEL else 0)

    def _note_odd(self, heard: Heard) -> None:
        odd = {what for what, compared in heard.compared.items() if compared.passed_over}
        if heard.report.seq > self._replica.seq:
            odd.add(BEYOND)
        now_s = time.monotonic()
        heard.odd_since_s = {what: heard.odd_since_s.get(what, now_s) for what in sorted(odd)}

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _note_arrival(self) -> None:
        self._arrivals.append((self._replica.seq, time.monotonic()))

    def _compare(self, node: str, heard: Heard) -> None:
        history, digests = self._replica.history, self._auditor.digests
        changed = []
        for what, compared in heard.compared.items():
            if what == STATE:
                turned = compared.compare(self._replica.seq, history.digest_at)
            else:
                turned = compared.compare(digests.seq, lambda seq: digests.at(node, seq))
            if turned:
                changed.append(compared)
        self._note_odd(heard)
        if any(compared.waits for compared in heard.compared.values()):
            self._uncompared.add(node)
        else:
            self._uncompared.discard(node)
        for compared in changed:
            _log_turn(node, compared)

    def _waited_for(self) -> set[int]:
        """Events after which a node has said what is not compared yet."""
        waiting = [heard.compared.values() for node in self._uncompared if (heard := self._of.get(node)) is not None]
        return {each.waiting_seq for of_node in waiting for each in of_node if each.waiting_seq is not None}

    def _compare_early(self) -> None:
        for node in list(self._uncompared):
            heard = self._of.get(node)
            if heard is None:
                self._uncompared.discard(node)
            else:
                self._compare(node, heard)


def _log_turn(node: str, compared: Compared) -> None:
    difference = compared.difference
    if difference is None:
        _logger.info("digests agree again", node=node, digest=compared.what, seq=compared.seq)
        return
    theirs, ours = difference.theirs.hex(), difference.ours.hex()
    _logger.error("digests differ", node=node, digest=compared.what, seq=difference.seq, theirs=theirs, ours=ours)
