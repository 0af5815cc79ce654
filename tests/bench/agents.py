"""Many agents in few processes: real ones (subscription, cache, tables, reports) but for the kernel under them."""

import asyncio
import multiprocessing
import os
import signal
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import uvloop

from kilim.agent.runtime import serve
from kilim.agent.settings import Settings
from tests.bench.plane import cpu_s


@dataclass(frozen=True, slots=True)
class Agents:
    """One process of agents."""

    process: BaseProcess

    @staticmethod
    def start(names: list[str], servers: tuple[str, ...], folder: Path) -> "Agents":
        """Node nodeN has 192.0.2.N and 10.9.N.0/24."""
        process = multiprocessing.get_context("spawn").Process(target=_run, args=(names, servers, folder), daemon=True)
        process.start()
        return Agents(process)

    def cpu_s(self) -> float:
        assert self.process.pid is not None
        return cpu_s(self.process.pid)

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()


def node_number(name: str) -> int:
    return int(name.removeprefix("node"))


def _run(names: list[str], servers: tuple[str, ...], folder: Path) -> None:
    with (folder / f"agents-{os.getpid()}.log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    uvloop.run(_serve(names, servers, folder))


async def _serve(names: list[str], servers: tuple[str, ...], folder: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with asyncio.TaskGroup() as group:
        for name in names:
            number = node_number(name)
            settings = Settings(
                name,
                f"192.0.2.{number}",
                servers[number % len(servers) :] + servers[: number % len(servers)],
                (f"10.9.{number}.0/24",),
                state_dir=folder / name / "state",
                run_dir=folder / name / "run",
                datapath_mode="memory",
                log_level="warning",
            )
            for needed in (settings.state_dir, settings.run_dir):
                needed.mkdir(parents=True, exist_ok=True)
            group.create_task(serve(settings, stop))
