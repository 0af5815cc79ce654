"""The Unix socket on which `kilim-cni` asks: one JSON line each way. For root only, a bounded number at a time.

Easy to get wrong: a call has a task of its own, which asyncio leaves alone when the server ends. What the call works
with (netlink, programs, maps) is closed right after, and its file descriptors are other things then.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Protocol

import structlog

from kilim.agent.cni import spec
from kilim.agent.cni.requests import Json, PodRequest, decode_request
from kilim.agent.cni.spec import CniError

log = structlog.get_logger(__name__)


class PodNetwork(Protocol):
    """Who does it. Everything raises CniError; None is an empty answer."""

    def add(self, request: PodRequest) -> Awaitable[Json]: ...
    def delete(self, request: PodRequest) -> Awaitable[None]: ...
    def check(self, request: PodRequest) -> Awaitable[None]: ...
    def status(self) -> Awaitable[None]: ...
    def collect_garbage(self, request: PodRequest) -> Awaitable[None]: ...


class CniServer:
    """`deadline_s` bounds every call, so that a runtime never hangs."""

    def __init__(self, path: Path, network: PodNetwork, at_once: int = 32, deadline_s: float = 20.0) -> None:
        self._path = path
        self._network = network
        self._slots = asyncio.Semaphore(at_once)
        self._deadline_s = deadline_s
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until cancelled; calls under way are taken back, and told to come again."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(self._serve, path=self._path, limit=spec.LINE_BYTES_MAX)
        finally:
            os.umask(before)
        try:
            async with server:
                await server.serve_forever()
        finally:
            self._path.unlink(missing_ok=True)
            for call in self._calls:
                call.cancel()
            await asyncio.gather(*self._calls, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.current_task()
        assert call is not None
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        try:
            async with asyncio.timeout(self._deadline_s):
                line = await reader.readline()
            if line:
                answer = await self._answer(line)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError, TimeoutError) as error:
            log.warning("a CNI call ended early", reason=str(error) or type(error).__name__)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, line: bytes) -> Json:
        request: PodRequest | None = None
        started_at = asyncio.get_running_loop().time()
        try:
            request = decode_request(json.loads(line))
            async with asyncio.timeout(self._deadline_s), self._slots:
                result = await self._do(request)
        except CniError as error:
            refused = error
        except TimeoutError:
            refused = CniError(spec.TRY_AGAIN_LATER, f"not done within {self._deadline_s:g} s")
        except asyncio.CancelledError:  # and this task ends with its answer
            refused = CniError(spec.TRY_AGAIN_LATER, "the agent ends or starts anew")
        except ValueError as error:
            refused = CniError(spec.DECODING_FAILURE, "not a JSON line", str(error))
        except OSError as error:
            refused = CniError(spec.IO_FAILURE, error.strerror or str(error))
        except Exception as error:
            log.exception("a CNI call failed")
            refused = CniError(spec.INTERNAL, f"{type(error).__name__}: {error}")
        else:
            self._note(request, started_at, None)
            return {"result": result}
        self._note(request, started_at, refused)
        return {"error": refused.as_json(request.version if request else spec.LATEST)}

    async def _do(self, request: PodRequest) -> Json | None:
        commands: dict[str, Any] = {
            "ADD": self._network.add,
            "DEL": self._network.delete,
            "CHECK": self._network.check,
            "GC": self._network.collect_garbage,
        }
        if request.command == "STATUS":
            await self._network.status()
            return None
        if request.command not in commands:
            raise CniError(spec.INVALID_ENVIRONMENT, f"CNI_COMMAND: {request.command!r} is not a command")
        result: Json | None = await commands[request.command](request)
        return result

    def _note(self, request: PodRequest | None, started_at: float, refused: CniError | None) -> None:
        if request is None:
            log.warning("CNI", code=refused.code if refused else 0, reason=str(refused))
            return
        ms = round((asyncio.get_running_loop().time() - started_at) * 1000, 1)
        fields: Json = {
            "command": request.command,
            "pod": request.key,
            "container": request.container_id[:12],
            "ms": ms,
        }
        if refused is None:
            log.debug("CNI", **fields) if request.command in ("STATUS", "CHECK") else log.info("CNI", **fields)
        else:
            log.warning("CNI", code=refused.code, reason=refused.message, **fields)
