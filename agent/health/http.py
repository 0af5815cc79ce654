"""HTTP of the health check: `GET /hello`, asked and answered. Nothing of it is of use to anybody else.

Easy to get wrong: bytes from a pod are hostile. A request has little room and little time, and there are few at once:
one more, and the one that has been silent for longest goes, so that nobody keeps others out.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterable

from kilim.agent.core.connectivity import Result
from kilim.agent.health.sockets import Namespace
from kilim.model.address import format_ip, is_ipv6

_PATH = "/hello"
_ROOM_BYTES = 2048
_TIME_S = 5.0
_AT_ONCE = 64
_BACKLOG = 64
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


async def probe(namespace: Namespace, ip: int, port: int, timeout_s: float) -> Result:
    """Connects, asks and reads the first line of the answer."""
    loop = asyncio.get_running_loop()
    began_s = time.perf_counter()  # the loop's own clock has steps of a millisecond
    try:
        async with asyncio.timeout(timeout_s):
            line = await _ask(namespace, ip, port)
    except TimeoutError:
        return Result(loop.time(), error=f"no answer in {timeout_s:g} s")
    except OSError as error:
        return Result(loop.time(), error=error.strerror or str(error))
    if line.split(b" ")[:2] != [b"HTTP/1.1", b"200"]:
        return Result(loop.time(), error="something else than a health check answers there")
    return Result(loop.time(), time.perf_counter() - began_s)


async def _ask(namespace: Namespace, ip: int, port: int) -> bytes:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if is_ipv6(ip) else socket.AF_INET
    with contextlib.closing(await namespace.socket(family, socket.SOCK_STREAM)) as client:
        await loop.sock_connect(client, (format_ip(ip), port))
        host = f"[{format_ip(ip)}]" if is_ipv6(ip) else format_ip(ip)
        request = f"GET {_PATH} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
        await loop.sock_sendall(client, request.encode())
        answer = b""
        while b"\r\n" not in answer and len(answer) < _ROOM_BYTES:
            more = await loop.sock_recv(client, _ROOM_BYTES)
            if not more:
                break
            answer += more
    return answer.partition(b"\r\n")[0]


class Responder:
    """Answers on the sockets that it is given."""

    def __init__(self) -> None:
        self._servers: list[asyncio.Server] = []
        self._present: dict[asyncio.StreamWriter, None] = {}  # in the order in which they came

    @property
    def listens(self) -> bool:
        return bool(self._servers)

    async def listen(self, namespace: Namespace, addresses: Iterable[str], port: int) -> None:
        """On all of them, or on none: raises OSError."""
        try:
            for address in addresses:
                self._servers.append(await self._listen(namespace, address, port))
        except OSError:
            self.close()
            raise

    async def _listen(self, namespace: Namespace, address: str, port: int) -> asyncio.Server:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = await namespace.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address, port))
            return await asyncio.start_server(self._answer, sock=listener, limit=_ROOM_BYTES, backlog=_BACKLOG)
        except BaseException:
            listener.close()
            raise

    def close(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._present[writer] = None
        if len(self._present) > _AT_ONCE:
            oldest = next(iter(self._present))
            del self._present[oldest]
            oldest.transport.abort()
        try:
            async with asyncio.timeout(_TIME_S):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(_OK if request.split(b" ", 2)[:2] == [b"GET", _PATH.encode()] else _NOT_FOUND)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._present.pop(writer, None)
            writer.close()
