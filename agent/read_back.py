"""What the kernel holds, read back: every so often by ourselves, to compare and repair, and for whoever asks.

  period      the setting `read-back-interval-s` of the log, or longer where reading would take more than 1 % of a core
  rows        of one moment between two folds, so that they belong to one seq; folds go on while they are read
Easy to get wrong: a digest that differs is told to the replicas before the rows are repaired, and again after.
"""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import structlog

from kilim.agent.core.drift import DriftedRow
from kilim.agent.enforcement import Enforcement
from kilim.agent.row_sums import RowSums
from kilim.agent.tables import Kernel
from kilim.agent.threads import in_thread
from kilim.model.settings import READ_BACK_INTERVAL_S
from kilim.model.tables import ROW_BYTES, hash_endpoint

log = structlog.get_logger(__name__)

_SHARE = 100  # of the time that a reading takes, until the next
_LOOK_S = 0.5
_RETRY_S = 2.0
_ATTEMPTS = 4

T = TypeVar("T")


class NotInSync(Exception):
    """The agent has not caught up with the log since it started: its kernel may hold more than is desired (I6)."""


class Moment(NamedTuple):
    """What the kernel held when `seq` was enforced; `table_digest` is that of what was desired. `digest` is of `rows`
    and those that wait for their interface: such an endpoint is closed, and nothing has gone wrong yet."""

    seq: int
    table_digest: bytes
    rows: dict[str, bytes]
    digest: bytes
    local_drift: tuple[DriftedRow, ...] = ()  # beyond those rows
    held_endpoints: frozenset[int] = frozenset()  # what waits

    @property
    def is_clean(self) -> bool:
        return self.digest == self.table_digest and not self.local_drift


class ReadBack:
    def __init__(self, enforcement: Enforcement, kernel: Kernel) -> None:
        self._enforcement = enforcement
        self._kernel = kernel
        self._sums = RowSums()
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[Moment] | None = None
        self._readings: set[asyncio.Task[Moment]] = set()
        self._told_s = 0.0
        self.took_s = 0.0  # of a core, the last time
        self.rows: dict[str, int] = {}

    async def read(self) -> Moment:
        """The next reading that begins; all who ask meanwhile get the same. Raises NotInSync, OSError."""
        if self._next is None:
            self._next = asyncio.create_task(self._take_turn(), name="reading")
            self._readings.add(self._next)
            self._next.add_done_callback(self._forget)
        return await asyncio.shield(self._next)

    async def run(self) -> None:
        """Never ends; readings end with it."""
        try:
            await self._run()
        finally:
            await self.close()

    async def close(self) -> None:
        for task in self._readings:
            task.cancel()
        await asyncio.gather(*self._readings, return_exceptions=True)

    async def _run(self) -> None:
        read_at = tried_at = time.monotonic()
        while True:
            left_s = read_at + self.period_s() - time.monotonic()
            is_failing = "kernel" in self._enforcement.errors
            await asyncio.sleep(_LOOK_S if is_failing else min(_LOOK_S, max(left_s, 0.0)))
            now = time.monotonic()
            if "kernel" in self._enforcement.errors:
                if now - tried_at >= _RETRY_S:
                    self._enforcement.repair()
                    tried_at = time.monotonic()
            elif now - read_at >= self.period_s():
                await self._check()
                read_at = time.monotonic()

    def period_s(self) -> float:
        setting_s = READ_BACK_INTERVAL_S.read(self._enforcement.replica.state)
        period_s = max(float(setting_s), self.took_s * _SHARE)
        if period_s > setting_s and not 0.8 < period_s / (self._told_s or 0.1) < 1.25:
            log.warning(
                "reading back takes longer than its share of a core; it is done less often",
                setting_s=setting_s, period_s=round(period_s, 1), took_ms=round(self.took_s * 1000), rows=self.rows,
            )  # fmt: skip
        self._told_s = period_s if period_s > setting_s else 0.0
        return period_s

    async def _check(self) -> None:
        try:
            moment = await self.read()
            self._enforcement.note("read-back", "")
            self._enforcement.take_reading(moment.digest, moment.seq)
            if not moment.is_clean and "kernel" not in self._enforcement.errors:
                started_at = time.thread_time()
                self._enforcement.repair()
                repair_s = time.thread_time() - started_at
                moment = await self.read()
                self._enforcement.take_reading(moment.digest, moment.seq)
                self.took_s += repair_s
        except NotInSync:
            pass
        except OSError as error:
            self._enforcement.note("read-back", f"the kernel's rows cannot be read back: {error.strerror or error}")

    def _forget(self, reading: asyncio.Task[Moment]) -> None:
        self._readings.discard(reading)
        if not reading.cancelled():
            reading.exception()  # who asked has it, or is gone

    async def _take_turn(self) -> Moment:
        async with self._turn:
            self._next = None  # who asks from now on gets a later moment
            return await self._read()

    async def _read(self) -> Moment:
        enforcement, took = self._enforcement, _Took()
        for attempt in range(1, _ATTEMPTS + 1):
            if not enforcement.in_sync:
                raise NotInSync("the agent has not caught up with the log since it started")
            reading = self._kernel.start_reading()
            try:
                await took.in_thread(reading.read)
            except BaseException:
                reading.abandon()
                raise
            if reading.settle(anyway=attempt == _ATTEMPTS):
                break
        report, waiting, held_back = enforcement.report(), self._kernel.held_endpoints, self._held_back()
        rows = await took.in_thread(reading.rows)
        took_s, is_first = took.seconds, not self.rows
        found = await took.in_thread(lambda: self._sums.digest(rows))
        self.took_s = took_s if is_first else took.seconds  # only the first time every row is hashed
        self.rows = {table: len(data) // ROW_BYTES[table] for table, data in rows.items()}
        found.add(held_back)
        return Moment(report.seq, report.table_digest, rows, found.digest(), tuple(reading.local_drift), waiting)

    def _held_back(self) -> int:
        """What endpoints that wait for their interface would add to the digest."""
        endpoints = self._enforcement.replica.tables.endpoints
        return sum(hash_endpoint(ip, endpoints[ip]) for ip in self._kernel.held_endpoints if ip in endpoints)


class _Took:
    """The time of a core that threads have taken."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def in_thread(self, work: Callable[[], T]) -> T:
        def timed() -> T:
            started_at = time.thread_time()
            try:
                return work()
            finally:
                self.seconds += time.thread_time() - started_at

        return await in_thread(timed)
