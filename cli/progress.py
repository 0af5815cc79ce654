"""What is said while one waits: a spinner on a terminal, nothing where stderr is a file or a pipe."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    with steps(what):
        yield


@contextmanager
def steps(title: str) -> Iterator[Callable[[str], None]]:
    """Gives a function that is told what is being done now."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status(title) as spinner:
        yield lambda step: spinner.update(f"{title}: {step}")
