"""One netlink socket in this node's namespace and the one thread that uses it; the loop never blocks on the kernel."""

import asyncio
import contextlib
import errno
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from kilim.agent.netlink.library import IPRoute, NetlinkError

T = TypeVar("T")

ROUTE_PROTOCOL = 120  # routes with this number are ours (I7)


class NetlinkSession:
    """`run` does everything in one worker thread, one piece of work after another."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._socket: Any = None

    async def run(self, work: Callable[[Any], T]) -> T:
        """`work` gets the open IPRoute. OSError and NetlinkError come out as OSError."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._in_thread, work)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, self._close)
        self._executor.shutdown(wait=False)

    def _in_thread(self, work: Callable[[Any], T]) -> T:
        if self._socket is None:
            self._socket = open_netlink()
        try:
            return work(self._socket)
        except NetlinkError as error:
            raise OSError(error.code, str(error)) from error

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def open_netlink() -> Any:
    """Of the calling thread's namespace."""
    return IPRoute()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def tolerate(*numbers: int) -> Iterator[None]:
    """What is already there, or already gone, is as it should be (I10)."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in numbers:
            raise


GONE = (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.ENXIO, errno.EADDRNOTAVAIL)


def find_link(ipr: Any, name: str) -> Any | None:
    """The link with that name, or None."""
    try:
        found = ipr.link("get", ifname=name)
    except NetlinkError as error:
        if error.code in GONE:
            return None
        raise
    return found[0] if found else None
