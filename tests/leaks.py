"""What a test or a session left on the machine, and how we know that it is ours."""

import asyncio
import asyncio.runners
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

TOKEN = "KILIM_TEST_SESSION"
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")  # of several that share a session; the first process looks after all
SESSION = os.environ[TOKEN] if WORKER else f"{os.getpid()}-{time.time_ns()}"
PREFIX = f"{os.environ['KILIM_TEST_PREFIX']}w{WORKER[2:]}" if WORKER else f"kt{os.getpid():x}"
NAMED_PLACES = (
    Path("/var/run/netns"),
    Path("/sys/fs/bpf"),
    Path("/sys/fs/cgroup/unified"),
    Path("/sys/fs/cgroup"),
    Path("/run"),
)
DEPTH = 3
GRACE_S = 2.0
LEFT = pytest.StashKey[list[str]]()

unfinished_tasks: list[str] = []


def in_ci() -> bool:
    return os.environ.get("CI", "") not in {"", "0", "false"}


def mark_this_session() -> None:
    os.environ[TOKEN] = SESSION  # every process that a test starts inherits it, and its children do
    os.environ["KILIM_TEST_PREFIX"] = PREFIX


def watch_tasks(root: Path) -> None:
    """A task of ours that still runs when its loop closes was left behind; asyncio would cancel it in silence."""
    cancel_all = asyncio.runners._cancel_all_tasks  # type: ignore[attr-defined]

    def note_and_cancel(loop: asyncio.AbstractEventLoop) -> None:
        for task in asyncio.all_tasks(loop):
            code = getattr(task.get_coro(), "cr_code", None)
            if code is not None and code.co_filename.startswith(str(root)) and ".venv" not in code.co_filename:
                unfinished_tasks.append(f"task {task.get_name()} ({code.co_qualname})")
        cancel_all(loop)

    asyncio.runners._cancel_all_tasks = note_and_cancel  # type: ignore[attr-defined]


def children() -> set[int]:
    found = set()
    for thread in Path("/proc/self/task").iterdir():
        try:
            found |= {int(pid) for pid in (thread / "children").read_text().split()}
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def new_children(before: set[int]) -> list[str]:
    deadline = time.monotonic() + GRACE_S  # a process that was told to end may take a moment
    while True:
        left = [pid for pid in children() - before if _alive(pid)]
        if not left or time.monotonic() > deadline:
            return [f"process {pid} ({_command(pid)})" for pid in left]
        time.sleep(0.02)


def left_by_session() -> list[str]:
    deadline = time.monotonic() + GRACE_S
    while True:
        left = [*_our_processes(), *_our_names()]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


def _our_processes() -> Iterator[str]:
    needle = f"{TOKEN}={SESSION}".encode()
    for directory in Path("/proc").glob("[0-9]*"):
        pid = int(directory.name)
        try:
            if pid != os.getpid() and needle in (directory / "environ").read_bytes() and _alive(pid):
                yield f"process {pid} ({_command(pid)})"
        except OSError:
            continue  # gone meanwhile, or not ours to read


def _our_names() -> Iterator[str]:
    seen = set()
    for place in NAMED_PLACES:
        for directory, names, files in os.walk(place):
            for name in [*names, *files]:
                if PREFIX in name and (directory, name) not in seen:
                    seen.add((directory, name))
                    yield os.path.join(directory, name)
            names[:] = [name for name in names if PREFIX not in name]
            if len(Path(directory).relative_to(place).parts) >= DEPTH - 1:
                names.clear()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:80]
    except OSError:
        return "ended"
