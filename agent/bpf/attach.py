"""tcx links, pinned. A link outlives the agent; replacing its program loses and doubles no packet."""

import errno
import os
from pathlib import Path

from kilim.agent.bpf import syscall


def attach(prog_fd: int, ifindex: int, attach_type: int, pin: Path) -> None:
    """Make the link at `pin` run this program at this hook. `ifindex` is one of the calling thread's network namespace.
    Idempotent. A link whose device is gone survives in its pin with ifindex 0 and is made anew."""
    if _replace(prog_fd, ifindex, attach_type, pin):
        return
    fd = syscall.create_tcx_link(prog_fd, ifindex, attach_type)
    try:
        pin.unlink(missing_ok=True)
        syscall.pin(fd, pin)
    finally:
        os.close(fd)


def _replace(prog_fd: int, ifindex: int, attach_type: int, pin: Path) -> bool:
    try:
        fd = syscall.open_pinned(pin)
    except FileNotFoundError:
        return False
    try:
        info = syscall.link_info(fd)
        if (info.ifindex, info.attach_type) != (ifindex, attach_type):
            return False
        syscall.update_link(fd, prog_fd)
        return True
    except OSError as failure:
        if failure.errno != errno.ENOLINK:
            raise
        return False
    finally:
        os.close(fd)


def detach(pin: Path) -> None:
    """Idempotent. Removing a pin alone detaches some time later."""
    try:
        fd = syscall.open_pinned(pin)
    except FileNotFoundError:
        return
    try:
        syscall.detach_link(fd)
    except OSError as failure:
        if failure.errno != errno.ENOLINK:
            raise
    finally:
        os.close(fd)
        pin.unlink(missing_ok=True)


def read_links(directory: Path) -> dict[str, syscall.LinkInfo]:
    """What is attached, by pin name."""
    links = {}
    for pin in sorted(directory.iterdir()):
        fd = syscall.open_pinned(pin)
        try:
            links[pin.name] = syscall.link_info(fd)
        finally:
            os.close(fd)
    return links
