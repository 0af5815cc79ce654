"""Work inside another network namespace, in a thread that enters it and ends.

Easy to get wrong: pyroute2's own `NetNS` and `IPRoute(netns=…)` fork a child, which hangs once gRPC has been used.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def in_namespace(netns_fd: int, work: Callable[[], T]) -> T:
    """Runs `work` in a thread of its own inside the namespace; its exception is raised here."""
    results: list[T] = []
    errors: list[BaseException] = []

    def enter_and_work() -> None:
        try:
            if _libc.setns(netns_fd, _CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, f"setns: {os.strerror(number)}")
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=enter_and_work, name="netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
