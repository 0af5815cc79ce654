"""Starting and stopping the real processes of a lab: each in its namespace and its cgroup, its output in a log file.

A process outlives the command that started it (a session of its own) and is known by its cgroup alone.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kilim.lab import cgroup
from kilim.lab.errors import LabError

_POLL_S = 0.02
_ENTER_S, _ENTER_POLL_S = 2.0, 0.001
# The shell moves itself into the cgroup and then becomes the program, so no moment passes in which a child is not ours,
# and no Python runs between fork and exec.
_ENTER_CGROUP = 'echo $$ > "$0" && exec "$@"'


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    name: str
    argv: tuple[str, ...]
    log: Path
    cwd: Path
    netns: Path | None = None
    inherited_fds: tuple[int, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


def kilim_argv(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "kilim.cli.main", *arguments)


def start_process(lab: str, spec: ProcessSpec) -> int:
    group = cgroup.process_cgroup(lab, spec.name)
    cgroup.create_cgroup(group)
    if running := cgroup.pids_in(group):
        raise LabError(f"{spec.name} of lab {lab} already runs (pid {running[0]})")
    spec.log.parent.mkdir(parents=True, exist_ok=True)
    spec.cwd.mkdir(parents=True, exist_ok=True)
    with open(spec.log, "ab") as log:
        child = subprocess.Popen(
            _wrapped(group, spec.netns, spec.argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=spec.cwd,
            env={**_environment(), **dict(spec.environment)},
            start_new_session=True,
            pass_fds=spec.inherited_fds,
        )
    deadline = time.monotonic() + _ENTER_S
    while child.pid not in cgroup.pids_in(group) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(_ENTER_POLL_S)
    child.returncode = 0  # Popen's finaliser warns about children that are meant to outlive it
    return child.pid


def run_attached(lab: str, name: str, netns: Path, argv: Sequence[str]) -> int:
    """Runs a command with this command's own stdin, stdout and stderr; its exit status, 128+n for a signal."""
    group = cgroup.process_cgroup(lab, name)
    cgroup.create_cgroup(group)
    child = subprocess.Popen(_wrapped(group, netns, argv))
    while True:
        try:
            status = child.wait()
            return status if status >= 0 else 128 - status
        except KeyboardInterrupt:
            continue  # the terminal has sent it to the command as well, which decides


def pid_of(lab: str, name: str) -> int | None:
    pids = cgroup.pids_in(cgroup.process_cgroup(lab, name))
    return pids[0] if pids else None


def signal_process(lab: str, name: str, number: signal.Signals) -> int:
    pids = cgroup.signal_all(cgroup.process_cgroup(lab, name), number)
    if not pids:
        raise LabError(f"{name} of lab {lab} does not run")
    return pids[0]


def stop_process(lab: str, name: str, grace_s: float = 3.0) -> None:
    """SIGTERM, then SIGKILL; a stopped (SIGSTOP) process is woken so that it can end. Idempotent."""
    group = cgroup.process_cgroup(lab, name)
    for number in (signal.SIGTERM, signal.SIGCONT):
        cgroup.signal_all(group, number)
    deadline = time.monotonic() + grace_s
    while cgroup.pids_in(group) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    cgroup.signal_all(group, signal.SIGKILL)
    while cgroup.pids_in(group):
        time.sleep(_POLL_S)


async def wait_until(what: str, condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not after {timeout_s:g} s")
        await asyncio.sleep(_POLL_S)


def log_tail(log: Path, lines: int = 3) -> str:
    try:
        return " | ".join(log.read_text(errors="replace").strip().splitlines()[-lines:])
    except FileNotFoundError:
        return "no log"


def program(name: str) -> str:
    """A console script of this very environment, else whatever PATH has."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise LabError(f"the lab needs the program {name}, which is neither in {beside.parent} nor in PATH")
    return found


def _wrapped(group: Path, netns: Path | None, argv: Sequence[str]) -> list[str]:
    enter = ["nsenter", f"--net={netns}", "--"] if netns else []
    return ["/bin/sh", "-c", _ENTER_CGROUP, str(group / "cgroup.procs"), *enter, *argv]


def _environment() -> Mapping[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "GRPC_VERBOSITY": os.environ.get("GRPC_VERBOSITY", "ERROR")}
