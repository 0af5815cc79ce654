"""Sockets of a network namespace: the node's own, or one of the health endpoint's that nobody else has.

Easy to get wrong: that one has no name and no mount. It is there as long as this process is, which holds it by a file
descriptor and a thread, and goes with it however it ends; a veth pair's far side in it takes the near side along.
"""

import asyncio
import ctypes
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace(Protocol):
    async def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A new one that does not block. Raises OSError."""
        ...


class OwnNamespace:
    """That of this process."""

    async def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        return _open(family, kind, protocol)


class NewNamespace:
    """Made by `open`, before anything else; its one thread stays in it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="health-netns")
        self._fd = -1

    async def open(self) -> str:
        """Its path, for whoever opens it in this process. Raises OSError."""
        if self._fd < 0:
            self._fd = await self._run(_leave)
        return f"/proc/self/fd/{self._fd}"

    async def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        return await self._run(lambda: _open(family, kind, protocol))

    def close(self) -> None:
        """It goes with the last socket in it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _leave() -> int:
    """The calling thread goes into a new namespace; a file descriptor of it."""
    if _libc.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _open(family: int, kind: int, protocol: int) -> socket.socket:
    made = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    made.setblocking(False)
    return made
