"""The rows of this node's kernel, for whoever asks a replica for them: one stream to every replica, beside the reports.

Easy to get wrong: the stream is silent while nobody asks, so it does not notice a partition; the reports to the same
replica do, and give up the connection that both are on.
"""

import asyncio
from collections.abc import Iterator

import grpc
import grpc.aio
import structlog

from kilim.agent.backoff import Backoff
from kilim.agent.read_back import Moment, NotInSync, ReadBack
from kilim.agent.servers import Renewed, Server, renewable
from kilim.model.address import mapped
from kilim.model.tables import ROW_BYTES, ROW_FORMAT
from kilim.v1 import controlplane_pb2 as pb

log = structlog.get_logger(__name__)

_PART_BYTES = 512 << 10
_WRITE_S = 10.0
_NAMED_MAX = 1000

_Call = grpc.aio.StreamStreamCall[pb.TablesAnswer, pb.TablesQuestion]


async def answer_for_tables(server: Server, node: str, read_back: ReadBack) -> None:
    """Never ends: opens a stream, answers on it, opens the next one when it breaks."""
    backoff = Backoff(0.1, 2.0)
    told = False
    while True:
        call = server.nodes.ServeTables()
        try:
            with renewable():
                await call.write(pb.TablesAnswer(node=node))
                while isinstance(question := await call.read(), pb.TablesQuestion):
                    backoff.reset()
                    told = False
                    await _answer(call, question.id, read_back)
            reason = "the stream ended"
        except grpc.aio.AioRpcError as error:
            reason = f"{error.code().name} {error.details()}"
        except (asyncio.InvalidStateError, grpc.aio.UsageError, Renewed, TimeoutError) as error:
            reason = type(error).__name__
        finally:
            call.cancel()
        if not told:
            log.info("tables cannot be read through this replica for now", server=server.address, reason=reason)
            told = True
        await asyncio.sleep(backoff.next_s())


async def _answer(call: _Call, number: int, read_back: ReadBack) -> None:
    try:
        parts = table_parts(await read_back.read())
    except (NotInSync, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        parts = iter([pb.TablesPart(error=reason, last=True)])
    for part in parts:
        async with asyncio.timeout(_WRITE_S):
            await call.write(pb.TablesAnswer(id=number, part=part))


def table_parts(moment: Moment, part_bytes: int = _PART_BYTES) -> Iterator[pb.TablesPart]:
    """At least one; only the last one says so."""
    seq, digest = moment.seq, moment.table_digest
    for table, rows in moment.rows.items():
        size = part_bytes - part_bytes % ROW_BYTES[table]
        for start in range(0, len(rows), size):
            packed = rows[start : start + size]
            yield pb.TablesPart(seq=seq, table_digest=digest, table=table, rows=packed, row_format=ROW_FORMAT)
    drift = [str(row) for row in moment.local_drift[:_NAMED_MAX]]
    waiting = sorted(moment.held_endpoints)
    yield pb.TablesPart(
        seq=seq,
        table_digest=digest,
        local_drift=drift,
        held_endpoints=[mapped(ip) for ip in waiting],
        last=True,
        row_format=ROW_FORMAT,
    )
