"""Traffic that flows while processes are killed: what was allowed must go on, what was denied must stay so.

The names of the counters are what the demo prints; a leak is an answer to a connection that policy denies.
"""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kilim.lab.exchange import Attempt, Seen, Target, attempt, open_probes
from kilim.lab.netns import open_socket
from kilim.lab.scenario import Probe

_STREAM_PAUSE_S = 0.02
_STREAM_ANSWER_S = 5.0
_ALLOWED_PAUSE_S, _ALLOWED_TIMEOUT_S = 0.05, 5.0
_DENIED_TIMEOUT_S = 0.4


@dataclass(slots=True)
class Counts:
    """`wrong` is failures where traffic is allowed and leaks where it is not."""

    done: int = 0
    wrong: int = 0
    first_wrong: str = ""

    def note(self, right: bool, detail: str) -> None:
        self.done += 1
        if not right:
            self.wrong += 1
            self.first_wrong = self.first_wrong or detail


class Traffic:
    """Runs from `start` to `stop`."""

    def __init__(
        self,
        stream: Target,
        allowed: Sequence[Target],
        denied: Sequence[Target],
        stream_pause_s: float = _STREAM_PAUSE_S,
    ) -> None:
        self.stream, self.allowed, self.denied = Counts(), Counts(), Counts()
        self._stream_target, self._stream_pause_s = stream, stream_pause_s
        self._allowed_targets, self._denied_targets = allowed, denied
        self._ending = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        family = socket.AF_INET6 if ":" in self._stream_target.ip else socket.AF_INET
        opened = open_socket(self._stream_target.netns, family, socket.SOCK_STREAM)
        async with asyncio.timeout(_STREAM_ANSWER_S):
            address = (self._stream_target.ip, self._stream_target.port)
            await asyncio.get_running_loop().sock_connect(opened, address)
        reader, writer = await asyncio.open_connection(sock=opened)
        self._tasks = [asyncio.create_task(self._keep_stream(reader, writer), name="stream")]
        self._tasks += [
            asyncio.create_task(self._repeat(target, True), name="allowed") for target in self._allowed_targets
        ]
        self._tasks += [
            asyncio.create_task(self._repeat(target, False), name="denied") for target in self._denied_targets
        ]

    async def stop(self) -> None:
        self._ending.set()
        await asyncio.gather(*self._tasks)

    async def abandon(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = 0
        try:
            while not self._ending.is_set():
                number += 1
                text = b"%08d" % number
                writer.write(text)
                answer = await self._answer(reader, text)
                self.stream.note(answer, f"message {number} was not answered")
                if not answer:
                    return
                await asyncio.sleep(self._stream_pause_s)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, text: bytes) -> bool:
        try:
            async with asyncio.timeout(_STREAM_ANSWER_S):
                return (await reader.readuntil(text)).endswith(text)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            return False

    async def _repeat(self, target: Target, is_allowed: bool) -> None:
        while not self._ending.is_set():
            (probe,) = open_probes([target])
            seen = await attempt(probe, _ALLOWED_TIMEOUT_S if is_allowed else _DENIED_TIMEOUT_S)
            if is_allowed:
                self.allowed.note(_right_answer(target, seen), f"{target.ip}:{target.port}: {seen.detail or 'silence'}")
                await asyncio.sleep(_ALLOWED_PAUSE_S)
            else:
                self.denied.note(seen.seen is not Seen.ANSWER, f"{target.ip}:{target.port} answered")


def _right_answer(target: Target, seen: Attempt) -> bool:
    return seen.seen is Seen.ANSWER and seen.detail == target.answerer


def traffic_between(places: dict[str, tuple[Path, str]], probe: Probe) -> Target:
    """`places`: (namespace file, IP) of each pod."""
    netns, _ = places[probe.source]
    _, ip = places[probe.target]
    return Target(netns, ip, probe.port, probe.protocol, probe.target)
