"""What this node enforces, told to every replica: the newest report only (I11), on one stream per replica.

Easy to get wrong: the open stream is what says that this agent is up, so it is kept even where nothing changes; and a
partition swallows writes in silence, so each server is asked now and then whether it is there.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import structlog

from kilim.agent.backoff import Backoff
from kilim.agent.servers import Renewed, Server, renewable
from kilim.v1 import controlplane_pb2 as pb

log = structlog.get_logger(__name__)

_ASK_S = 5.0
_PATIENCE_S = 3.0


class Reports:
    """The newest report, for any number of readers that each may skip older ones."""

    def __init__(self) -> None:
        self.newest: pb.NodeReport | None = None
        self._version = 0
        self._changed = asyncio.Event()

    def publish(self, report: pb.NodeReport) -> None:
        self.newest = report
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self, repeat_s: float) -> AsyncIterator[pb.NodeReport]:
        """The newest at once, then each newer one; the same again where nothing changes for `repeat_s`."""
        seen = -1
        while True:
            if self.newest is not None:
                seen = self._version
                yield self.newest
            if self.newest is None or self._version == seen:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(repeat_s):
                        await self._changed.wait()


async def report_to(server: Server, reports: Reports, repeat_s: float = 1.0) -> None:
    """Never ends: opens a stream, writes to it, opens the next one when it breaks."""
    backoff = Backoff(0.1, 2.0)
    told = False
    while True:
        call = server.nodes.Report()
        try:
            asked_at = time.monotonic()
            async for report in reports.follow(repeat_s):
                with renewable():
                    async with asyncio.timeout(_PATIENCE_S):
                        await call.write(report)
                        if time.monotonic() - asked_at > _ASK_S:
                            await server.ask()
                            asked_at = time.monotonic()
                if told:
                    log.info("reports are accepted again", server=server.address)
                    told = False
                backoff.reset()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError, Renewed) as error:
            if not told:
                log.warning("reports are not accepted", server=server.address, reason=_reason(error))
                told = True
        except TimeoutError:
            await server.renew()
        finally:
            call.cancel()
        await asyncio.sleep(backoff.next_s())


def _reason(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name} {error.details()}"
    return type(error).__name__
