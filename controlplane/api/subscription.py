"""One subscriber: where it may start, and what it gets next.

Where it starts, the first rule that holds:
 1. This replica has not read the log: UNAVAILABLE.
 2. from_seq 0 or 1: a snapshot where the log is long, else every commit.
 3. from_seq beyond the next event: UNAVAILABLE if this replica is behind the log, else FAILED_PRECONDITION.
 4. chain_before differs, or from_seq is within a commit: FAILED_PRECONDITION.
 5. Commits from from_seq on, out of memory or, what is no longer there, out of the log.
Easy to get wrong: a subscriber that does not read stops its own call at a `write`; all that is kept is a number
and one message. What it writes with ends the wait some time (`patience`).
"""

import contextlib
from collections.abc import AsyncIterator

import grpc
import structlog

from kilim.controlplane.api.broadcast import Beat, Messages, encode_commits
from kilim.controlplane.api.patience import Write
from kilim.controlplane.api.status import NOT_LOADED
from kilim.controlplane.history import Held
from kilim.controlplane.replica import Replica
from kilim.controlplane.snapshots import Snapshots
from kilim.kvstore.errors import KvError, Unavailable
from kilim.kvstore.log import EventLog
from kilim.v1 import controlplane_pb2 as api

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

HEARTBEAT_S = 1.0
SNAPSHOT_FROM_EVENTS = 1000


class Refused(Exception):
    """The subscription cannot go on; `code` tells the subscriber what to do about it."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Subscriptions:
    """What all subscribers share."""

    def __init__(self, replica: Replica, log: EventLog, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._replica = replica
        self._history = replica.history
        self._log = log
        self._messages = Messages(replica.history)
        self._beat = Beat(replica.history, heartbeat_s)
        self.snapshots = Snapshots(replica)
        self._closing = False
        self.count = 0  # of those who follow

    async def run(self) -> None:
        """For ever: without it nobody is sent what is new."""
        await self._beat.run()

    def close(self) -> None:
        """Every subscriber is told to go elsewhere."""
        self._closing = True
        self._history.wake()

    async def follow(self, request: api.SubscribeRequest, write: Write) -> None:
        """For ever; `write` is given serialised SubscribeResponses. Raises Refused or KvError."""
        if not self._replica.loaded:
            raise Unavailable(NOT_LOADED)
        if request.from_seq > 1:
            await self._check_start(request.from_seq, request.chain_before)
            cursor = request.from_seq
        else:
            cursor = 1
            if self._history.seq > SNAPSHOT_FROM_EVENTS or self._history.first_seq > 1:
                snapshot = self.snapshots.take()
                async with contextlib.aclosing(snapshot.parts()) as parts:
                    async for part in parts:
                        await write(part)
                cursor = snapshot.seq + 1
        self.count += 1
        try:
            await self._follow_from(cursor, write)
        finally:
            self.count -= 1

    async def _follow_from(self, cursor: int, write: Write) -> None:
        group = self._beat.join()
        told_at = -1  # the heartbeat since which the subscriber knows that it has everything
        while not self._closing:
            if cursor > self._history.seq and told_at < self._beat.count(group):
                told_at = self._beat.count(group)
                await write(self._messages.head().encoded)
            elif cursor > self._beat.seq:
                await self._beat.wait(group)
            elif message := self._messages.after(cursor):
                await write(message.encoded)
                cursor = message.last_seq + 1
                told_at = self._beat.count(group) if told_at >= 0 and cursor > self._history.seq else -1
            else:
                async for held in self._from_log(cursor):
                    await write(encode_commits([held]).encoded)
                    cursor = held.last_seq + 1
        raise Unavailable("this replica is stopping")

    async def _from_log(self, cursor: int) -> AsyncIterator[Held]:
        """Up to where memory begins; both ends are commits' ends."""
        try:
            async for commit in self._log.read(cursor, self._history.first_seq - 1):
                yield Held(commit.first_seq, commit.last_seq, commit.chain_after, commit.encoded)
        except KvError as error:
            _logger.warning("subscriber fell behind what is in memory", seq=cursor, error=str(error))
            raise Refused(
                grpc.StatusCode.OUT_OF_RANGE,
                f"event {cursor} is not in memory and cannot be read from the log ({error}): subscribe from 0",
            ) from error

    async def _check_start(self, from_seq: int, chain_before: bytes) -> None:
        if from_seq > self._history.seq + 1:
            await self._catch_up(from_seq)
        if from_seq > self._history.seq + 1:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"from_seq {from_seq} is beyond the log, whose last event is {self._history.seq}",
            )
        known = await self._chain_before(from_seq)
        if chain_before and known != chain_before:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"chain_before: event {from_seq - 1} has chain {known.hex()} here, not {chain_before.hex()}",
            )

    async def _catch_up(self, from_seq: int) -> None:
        """A subscriber that comes from another replica may know more than we do yet."""
        head = await self._log.head()
        if from_seq <= head.last_seq + 1:
            await self._replica.catch_up(self._log, head.last_seq)

    async def _chain_before(self, from_seq: int) -> bytes:
        """Chain digest of the event before; raises where no commit starts at `from_seq`."""
        if from_seq == self._history.seq + 1:
            return self._history.chain
        commit = self._history.commit_with(from_seq)
        if commit is None:
            async with contextlib.aclosing(self._log.read(from_seq, from_seq)) as commits:
                commit = await anext(commits, None)
        if commit is not None and commit.first_seq == from_seq:
            return commit.chain_before
        raise Refused(
            grpc.StatusCode.FAILED_PRECONDITION, f"from_seq {from_seq} is not the first event of a commit of this log"
        )
