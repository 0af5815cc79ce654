"""One agent to a run directory and to a network namespace: two would undo each other's work, and a node is cleaned up
only when none is there. The kernel lets go of both locks when the process ends, however it ends. That of a namespace is
an abstract Unix socket (unix(7)), whose names are each namespace's own."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "agent.lock"

_SOCKET = "\0kilim-agent"


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
def hold_namespace() -> Iterator[None]:
    """The calling thread's network namespace. Raises Held."""
    with socket.socket(socket.AF_UNIX) as held:
        try:
            held.bind(_SOCKET)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise Held("an agent is running in this network namespace") from None
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
