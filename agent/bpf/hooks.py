"""Where programs are attached: by tcx links, or by clsact filters where the kernel has no tcx. A node that changes from
one to the other attaches the new before it removes the old; of the two only tcx runs, as our programs always decide."""

import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from kilim.agent.bpf import attach, clsact, syscall

AttachMode = Literal["auto", "tcx", "clsact"]


class Hooks:
    """What hangs in the kernel under the pins of one directory. Devices are those of the calling thread's network
    namespace. `program_fd`: any program for tc, to ask the kernel with."""

    def __init__(self, mode: AttachMode, directory: Path, program_fd: int) -> None:
        if mode not in get_args(AttachMode):
            raise ValueError(f"{mode!r} is no way to attach programs")
        if mode == "tcx" and not syscall.supports_tcx(program_fd):
            raise OSError(errno.EOPNOTSUPP, "this kernel has no tcx (Linux 6.6 brought it)")
        self.uses_tcx = mode == "tcx" or (mode == "auto" and syscall.supports_tcx(program_fd))
        self._directory = directory

    def attach(self, prog_fd: int, ifindex: int, attach_type: int, name: str) -> None:
        pin = self._pin(name)
        if self.uses_tcx:
            attach.attach(prog_fd, ifindex, attach_type, pin)
            clsact.detach([pin], [ifindex], keep_qdisc=True)
        else:
            clsact.attach(prog_fd, ifindex, attach_type, pin)
            attach.detach(pin)

    def detach_elsewhere(self, name: str, ifindex: int) -> None:
        """After `attach`: the same from other devices, as filters stay where they are."""
        others = [
            each for each in clsact.read_filters(self._directory) if each[0] == name and each[1].ifindex != ifindex
        ]
        clsact.detach([self._pin(name)], [link.ifindex for _, link in others])

    def detach(self, names: Sequence[str], device: str) -> None:
        """Idempotent; the device may be gone."""
        for name in names:
            attach.detach(self._pin(name))
        try:
            ifindex = socket.if_nametoindex(device)
        except OSError:
            return
        clsact.detach([self._pin(name) for name in names], [ifindex])

    def detach_from(self, names: Sequence[str], ifindex: int) -> None:
        """Idempotent; the device may be gone."""
        for name in names:
            attach.detach(self._pin(name))
        clsact.detach([self._pin(name) for name in names], [ifindex] if ifindex else [])

    def read(self) -> dict[str, syscall.LinkInfo]:
        """By name, whichever way it was attached, the links of both where there are both."""
        return read_hooks(self._directory)

    def detach_gone(self) -> list[str]:
        """Filters end with their device; a link remains as a pin."""
        gone = [name for name, link in attach.read_links(self._directory).items() if not link.ifindex]
        for name in gone:
            attach.detach(self._directory / name)
        return gone

    def _pin(self, name: str) -> Path:
        if not name or "/" in name or "." in name:  # bpffs keeps names with a dot for itself
            raise ValueError(f"{name!r} cannot name a pin")
        return self._directory / name


def read_hooks(directory: Path) -> dict[str, syscall.LinkInfo]:
    """By name, whoever attached it and whichever way. Filters are those of the calling thread's network namespace."""
    links = attach.read_links(directory) if directory.is_dir() else {}
    return dict(clsact.read_filters(directory)) | links


def remove_hooks(directory: Path) -> None:
    """All of them, whoever attached them. Filters are those of the calling thread's network namespace."""
    for name in sorted(os.listdir(directory)) if directory.is_dir() else ():
        attach.detach(directory / name)
    clsact.detach_all(directory)
