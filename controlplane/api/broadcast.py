"""What many subscribers are sent alike: each message serialised once, and the beat at which they look for more.

Easy to get wrong: a thousand writes take the event loop a tenth of a second, in which nothing else happens. So after a
round as much time is left to all other work (following the log, commands, reports) as the round took; what came in
between goes out together in the next round.
"""

import asyncio
from collections import OrderedDict
from typing import NamedTuple

from kilim.controlplane.history import Held, History
from kilim.v1 import controlplane_pb2 as api

HELD_MESSAGES = 16  # of 256 KiB at most, but for a single commit that is larger
GROUPS = 10  # heartbeats of so many groups are spread over the time of one
PAUSE_FROM_S = 0.002
PAUSE_MAX_S = 0.25


class Message(NamedTuple):
    encoded: bytes  # a serialised SubscribeResponse
    last_seq: int


class Messages:
    """Out of a history: the messages made last are kept for the next who wants the same."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._made: OrderedDict[tuple[int, int], Message] = OrderedDict()
        self._head = Message(b"", -1)

    def after(self, cursor: int) -> Message | None:
        """For a subscriber that wants `cursor` next and is not at the head; None: fallen out of memory."""
        batch = self._history.next_batch(cursor)
        if not batch:
            return None
        key = (cursor, batch[-1].last_seq)
        message = self._made.get(key)
        if message is None:
            message = self._made[key] = encode_commits(batch)
            if len(self._made) > HELD_MESSAGES:
                self._made.popitem(last=False)
        return message

    def head(self) -> Message:
        """That the subscriber has everything; the heartbeat too."""
        seq = self._history.seq
        if self._head.last_seq != seq:
            head = api.SubscribeResponse.Head(seq=seq, chain=self._history.chain)
            self._head = Message(api.SubscribeResponse(head=head).SerializeToString(), seq)
        return self._head


def encode_commits(batch: list[Held]) -> Message:
    if len(batch) == 1:
        response = api.SubscribeResponse(commit=batch[0].encoded)
    else:
        response = api.SubscribeResponse(commits=api.CommitBatch(commits=[held.encoded for held in batch]))
    return Message(response.SerializeToString(), batch[-1].last_seq)


class Beat:
    """Wakes all who wait when there is something new, and each group in its turn once per heartbeat."""

    def __init__(self, history: History, heartbeat_s: float) -> None:
        self.seq = 0  # the head as of this round; who has it waits for the next one
        self._history = history
        self._heartbeat_s = heartbeat_s
        self._groups = [asyncio.Event() for _ in range(GROUPS)]
        self._beats = [0] * GROUPS
        self._members = 0

    def join(self) -> int:
        """The group of one more subscriber."""
        self._members += 1
        return self._members % GROUPS

    def count(self, group: int) -> int:
        """Heartbeats of the group so far."""
        return self._beats[group]

    async def wait(self, group: int) -> None:
        await self._groups[group].wait()

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._announce())
            tasks.create_task(self._tick())

    async def _announce(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self.seq = self._history.seq
            begun_s = loop.time()
            for group in range(GROUPS):
                self._wake(group)
            await asyncio.sleep(0)  # all who were woken write
            await asyncio.sleep(0)
            took_s = loop.time() - begun_s
            if took_s > PAUSE_FROM_S:
                await asyncio.sleep(min(took_s, PAUSE_MAX_S))
            await self._history.wait(self.seq)

    async def _tick(self) -> None:
        while True:
            for group in range(GROUPS):
                await asyncio.sleep(self._heartbeat_s / GROUPS)
                self._beats[group] += 1
                self._wake(group)

    def _wake(self, group: int) -> None:
        self._groups[group].set()
        self._groups[group] = asyncio.Event()
