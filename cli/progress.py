"""What is said while one waits: a spinner on a terminal, nothing where stderr is a file or a pipe."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
