"""How far reading is, said on a terminal once it has taken a second; nothing where stderr is a file or a pipe."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from kilim.cli.progress import steps
from kilim.kvstore.commit import Commit

PATIENCE_S = 1.0


def counted(commits: Iterator[Commit], before_seq: int, to_seq: int) -> Iterator[Commit]:
    """The same commits."""
    if not sys.stderr.isatty():
        yield from commits
        return
    started = time.monotonic()
    say: Callable[[str], None] | None = None
    with contextlib.ExitStack() as stack:
        for commit in commits:
            if say is None and time.monotonic() - started > PATIENCE_S:
                say = stack.enter_context(steps("reading the log"))
            if say is not None:
                done = min(commit.last_seq, to_seq) - before_seq
                say(f"{done} of {to_seq - before_seq} events")
            yield commit
