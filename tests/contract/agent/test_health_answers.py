"""What answers health checks, and what asks: over real sockets of this machine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kilim.agent.health import http
from kilim.agent.health.http import Responder, probe
from kilim.agent.health.sockets import OwnNamespace
from kilim.model.address import parse_ip

ADDRESSES = ["127.0.0.1", "::1"]


@asynccontextmanager
async def responder(address: str) -> AsyncIterator[int]:
    """Its port."""
    answers, port = Responder(), free_port(address)
    await answers.listen(OwnNamespace(), [address], port)
    try:
        yield port
    finally:
        answers.close()


def free_port(address: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as found:
        found.bind((address, 0))
        return int(found.getsockname()[1])


async def said_to(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def silence(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("address", ADDRESSES)
async def test_a_probe_is_answered(address: str) -> None:
    async with responder(address) as port:
        result = await probe(OwnNamespace(), parse_ip(address), port, 5.0)
    assert (result.error, result.latency_s > 0) == ("", True)


@pytest.mark.parametrize("address", ADDRESSES)
async def test_nobody_there(address: str) -> None:
    result = await probe(OwnNamespace(), parse_ip(address), free_port(address), 5.0)
    assert result.error


async def test_something_else_there() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        result = await probe(OwnNamespace(), parse_ip("127.0.0.1"), server.sockets[0].getsockname()[1], 5.0)
    assert result.error == "something else than a health check answers there"


async def test_one_that_never_answers() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        result = await probe(OwnNamespace(), parse_ip("127.0.0.1"), listener.getsockname()[1], 0.2)
    assert result.error == "no answer in 0.2 s"


@pytest.mark.parametrize(
    ("request_bytes", "line"),
    [
        (b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 Not Found"),
        (b"POST /hello HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 Not Found"),
        (b"\r\n\r\n", b"HTTP/1.1 404 Not Found"),
        (b"x" * 100_000, b""),
        (b"\x16\x03\x01" + b"\0" * 5000, b""),
    ],
)
async def test_hostile_bytes(request_bytes: bytes, line: bytes) -> None:
    async with responder("127.0.0.1") as port:
        assert (await said_to(port, request_bytes)).partition(b"\r\n")[0] == line
        assert not (await probe(OwnNamespace(), parse_ip("127.0.0.1"), port, 5.0)).error


async def test_who_keeps_connections_open_does_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_TIME_S", 30)
    async with responder("127.0.0.1") as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(80)]
        try:
            assert not (await probe(OwnNamespace(), parse_ip("127.0.0.1"), port, 5.0)).error
            monkeypatch.setattr(http, "_TIME_S", 0.3)
            more = [await asyncio.open_connection("127.0.0.1", port) for _ in range(64)]
            held += more
            async with asyncio.timeout(20):
                for reader, _ in held:  # each is let go of
                    assert await silence(reader)
            assert not (await probe(OwnNamespace(), parse_ip("127.0.0.1"), port, 5.0)).error
        finally:
            for _, writer in held:
                writer.close()
