"""Writing to a subscriber that may take nothing: after a while its connection is closed, and what waits for it freed.

Easy to get wrong: gRPC's pings do not find it, they are answered by threads of gRPC while the program hangs. Nor does
ending the call: its status stands in the queue behind the message that nobody takes, and both stay in memory.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Container
from urllib.parse import unquote

import structlog

from kilim.controlplane.api.status import Context
from kilim.kvstore.errors import Unavailable

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

TAKE_S = 30.0  # for one message, of 256 KiB or so; an agent folds while it reads and takes a second or two

Write = Callable[[bytes], Awaitable[None]]  # waits while the other side does not read


def patiently(context: Context, ports: Container[int]) -> Write:
    """Raises Unavailable where a message is not taken. `ports`: those that this process listens on."""

    async def write(message: bytes) -> None:
        try:
            async with asyncio.timeout(TAKE_S):
                await context.write(message)
        except TimeoutError:
            peer = context.peer()
            closed = close_connection(peer, ports)
            _logger.warning("subscriber takes nothing", peer=peer, waited_s=TAKE_S, connection_closed=closed)
            raise Unavailable(f"nothing was taken for {TAKE_S:g} s: subscribe again") from None

    return write


def close_connection(peer: str, ports: Container[int]) -> bool:
    """Of the connections that came in at `ports` that from `peer`, as gRPC writes it (ipv4:192.0.2.1:4711,
    ipv6:%5B2001:db8::1%5D:4711), if there is one. gRPC notices as if the other side had done it. Those over a Unix
    socket have no name to find them by."""
    family, _, address = peer.partition(":")
    host, _, port = unquote(address).rpartition(":")
    if family not in {"ipv4", "ipv6"} or not port.isdecimal():
        return False
    host = host.strip("[]")
    return any([_close_if_from(int(name), host, int(port), ports) for name in os.listdir("/proc/self/fd")])


def _close_if_from(descriptor: int, host: str, port: int, ports: Container[int]) -> bool:
    """Looks at a duplicate: the number may be another file's by the time it is looked at."""
    try:
        duplicate = os.dup(descriptor)
    except OSError:  # closed meanwhile
        return False
    try:
        connection = socket.socket(fileno=duplicate)
    except OSError:  # no socket
        os.close(duplicate)
        return False
    with connection:
        try:
            name = connection.getpeername()
            if not isinstance(name, tuple) or (name[0].removeprefix("::ffff:"), name[1]) != (host, port):
                return False
            if connection.getsockname()[1] not in ports:  # one that we have made ourselves
                return False
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # it listens, or is closed already
            return False
    return True
