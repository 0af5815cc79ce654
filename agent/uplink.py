"""The subscription to the log: one at a time, from whichever replica answers, resumed where the last one ended.

  1. Resume behind what is applied, with its chain digest; FAILED_PRECONDITION (not their history): from scratch.
  2. No message for three heartbeats: the next server. A broken stream: the next server, after a pause with jitter.
Easy to get wrong: position is read only when everything received before has been applied.
"""

import asyncio
from collections.abc import Callable

import grpc
import grpc.aio
import structlog

from kilim.agent.backoff import Backoff
from kilim.agent.inbox import Begun, CommitsArrived, HeadArrived, Inbox, SnapshotArrived
from kilim.agent.servers import Server, Servers
from kilim.v1 import controlplane_pb2 as pb

log = structlog.get_logger(__name__)

Position = Callable[[], tuple[int, bytes]]


class Silent(Exception):
    """The server sent nothing for longer than a live one would."""


class FromScratch(Exception):
    """The history that we hold is not the one of the log."""


class Subscription:
    """`position`: seq and chain digest of what is applied; (0, …) where there is nothing."""

    def __init__(self, node: str, servers: Servers, inbox: Inbox, position: Position, silence_s: float = 3.0) -> None:
        self._node = node
        self._servers = servers
        self._inbox = inbox
        self._position = position
        self._silence_s = silence_s
        self._backoff = Backoff()
        self._call: grpc.aio.UnaryStreamCall[pb.SubscribeRequest, pb.SubscribeResponse] | None = None
        self._from_scratch = False
        self._lost_at: float | None = None
        self.server = ""
        self.head_seq = 0  # of the log, as far as heard

    @property
    def connected(self) -> bool:
        return bool(self.server)

    def restart_from_scratch(self) -> None:
        """What came cannot be right: everything anew."""
        self._from_scratch = True
        if self._call is not None:
            self._call.cancel()

    async def run(self) -> None:
        """Never ends."""
        while True:
            server = self._servers.preferred
            try:
                await self._follow(server)
                reason = "the stream ended"
            except Silent:
                reason = f"nothing heard for {self._silence_s:g} s"
                await server.renew()
            except FromScratch as error:
                reason = f"its log does not continue ours: {error}"
                if not self._from_scratch:
                    self._from_scratch = True
                    self._note_loss(server, reason, to_next=False)
                    continue
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name} {error.details()}"
            self._note_loss(server, reason, to_next=True)
            await asyncio.sleep(self._backoff.next_s())

    async def _follow(self, server: Server) -> None:
        await self._inbox.wait_drained()
        call = self._call = server.nodes.Subscribe(self._request())
        begun = False
        try:
            while True:
                try:
                    async with asyncio.timeout(self._silence_s):
                        message = await call.read()
                except TimeoutError:
                    raise Silent from None
                if not isinstance(message, pb.SubscribeResponse):  # grpc.aio.EOF
                    return
                if not begun:
                    begun = True
                    self._note_gain(server)
                    self._inbox.start(Begun(self._from_scratch))
                    self._from_scratch = False
                await self._pass_on(message)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.OUT_OF_RANGE):
                raise FromScratch(error.details()) from None
            raise
        except asyncio.CancelledError:
            # call.cancel() by restart_from_scratch surfaces here too; only the task's own cancellation goes on.
            if not call.cancelled() or asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
        finally:
            call.cancel()
            self._call = None
            self.server = ""

    def _request(self) -> pb.SubscribeRequest:
        seq, chain = self._position()
        if self._from_scratch or seq == 0:
            self._from_scratch = True
            return pb.SubscribeRequest(node=self._node, from_seq=0)
        return pb.SubscribeRequest(node=self._node, from_seq=seq + 1, chain_before=chain)

    async def _pass_on(self, message: pb.SubscribeResponse) -> None:
        which = message.WhichOneof("what")
        if which == "commit":
            await self._inbox.put(CommitsArrived((message.commit,)), len(message.commit))
        elif which == "commits":
            commits = tuple(message.commits.commits)
            await self._inbox.put(CommitsArrived(commits), sum(map(len, commits)))
        elif which == "head":
            self._backoff.reset()
            self.head_seq = message.head.seq
            await self._inbox.put(HeadArrived(message.head.seq, message.head.chain), 0)
        elif which == "snapshot":
            await self._inbox.put(SnapshotArrived(message.snapshot), message.ByteSize())

    def _note_gain(self, server: Server) -> None:
        self.server = server.address
        loop = asyncio.get_running_loop()
        away_s = None if self._lost_at is None else round(loop.time() - self._lost_at, 3)
        self._lost_at = None
        log.info("subscribed", server=server.address, away_s=away_s, from_scratch=self._from_scratch)

    def _note_loss(self, server: Server, reason: str, to_next: bool) -> None:
        if self._lost_at is None:
            self._lost_at = asyncio.get_running_loop().time()
            log.warning("subscription lost", server=server.address, reason=reason)
        else:
            log.debug("no subscription", server=server.address, reason=reason)
        if to_next:
            self._servers.prefer_next()
