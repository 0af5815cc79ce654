"""One agent to a run directory: two over the same pins would undo each other's work, and a node is cleaned up only when
none is there. The kernel lets go of the lock when the process ends, however it ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "agent.lock"


class Held(OSError):
    """An agent is there."""


@contextmanager
def hold_node(run_dir: Path) -> Iterator[None]:
    """Raises Held, OSError."""
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
    with _hold(run_dir, os.O_CREAT):
        yield


@contextmanager
def hold_if_there(run_dir: Path) -> Iterator[None]:
    """The same, where an agent has ever been. Raises Held, OSError."""
    if not (run_dir / LOCK).exists():
        yield
        return
    with _hold(run_dir, 0):
        yield


@contextmanager
def _hold(run_dir: Path, flags: int) -> Iterator[None]:
    fd = os.open(run_dir / LOCK, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Held(f"an agent is running over {run_dir}") from None
        yield
    finally:
        os.close(fd)
