"""Same-node acceleration: programs at the cgroup and over a map of sockets (bpf/sockops.bpf.c), pinned like hooks.

A socket keeps the program that it came under, whatever follows. So programs go by a version, which says over which maps
they judge, and only those of the version in force go from socket to socket: a start over the same maps changes nothing,
one over others, or without acceleration, sends what is open by the veth pair. Links that are removed, and maps, live on
for as long as such sockets do: what lies in them unread is still read.
"""

import os
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path

import numpy as np
import structlog

from kilim.agent.bpf import rows, syscall
from kilim.agent.bpf.layout import SOCKET_KEY
from kilim.agent.bpf.maps import Maps
from kilim.agent.bpf.pins import read_pins

log = structlog.get_logger(__name__)

OBJECT = "sockops"
JUDGED_BY = ("ct", "endpoints", "subjects", "policy", "epoch")  # maps that the programs share with the datapath's

_LINKS = "sockops"  # directory of the links
_FORCE = "sockops_force"
_NONE = 0


class NoCgroup(OSError):
    """There is no cgroup v2 hierarchy to attach to."""


def version_of(pins: Mapping[str, Path], own: Iterable[str]) -> int:
    """Of programs over these maps, by name; `own`: names of the pins of their object."""
    digest = blake2b("\n".join(sorted(own)).encode(), digest_size=4)
    for name in JUDGED_BY:
        fd = syscall.open_pinned(pins[name])
        try:
            digest.update(syscall.map_info(fd).id.to_bytes(4, "little"))
        finally:
            os.close(fd)
    return int.from_bytes(digest.digest(), "little") or 1


def find_cgroup_root() -> Path:
    """Where cgroup v2 is mounted. Raises NoCgroup."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount_point, kind, *_ = line.split(" ")
        if kind == "cgroup2":
            return Path(mount_point.replace("\\040", " "))
    raise NoCgroup("cgroup_root: no cgroup v2 hierarchy is mounted, give --cgroup-root")


class Sockops:
    """Over one set of loaded programs and open maps. `version`: what the programs were loaded with."""

    def __init__(self, fds: Mapping[str, int], maps: Maps, pins: Mapping[str, Path], version: int, root: Path) -> None:
        self._fds = fds
        self._maps = maps
        self._pins = pins
        self._version = version
        self._links = root / _LINKS

    def attach(self, cgroup_root: Path | None) -> None:
        """In place of what is attached by an agent before this one. Raises NoCgroup, OSError."""
        cgroup_root = cgroup_root or find_cgroup_root()
        self._links.mkdir(exist_ok=True, mode=0o700)
        _force(self._maps, self._version)
        sockets = syscall.open_pinned(self._pins["sockets"])
        try:
            over = self._attach(
                self._fds["redirect_message"], sockets, syscall.SK_MSG_VERDICT, self._pins["sockets"].name
            )
        finally:
            os.close(sockets)
        cgroup = os.open(cgroup_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = os.fstat(cgroup)
            name = f"cgroup_{found.st_dev}_{found.st_ino}"
            at = self._attach(self._fds["note_socket"], cgroup, syscall.CGROUP_SOCK_OPS, name)
        finally:
            os.close(cgroup)
        for pin in self._links.iterdir():
            if pin not in (over, at):
                pin.unlink()

    def _attach(self, prog_fd: int, target_fd: int, attach_type: int, name: str) -> Path:
        pin = self._links / name
        if pin.exists():
            fd = syscall.open_pinned(pin)
            try:
                syscall.update_link(fd, prog_fd)
            finally:
                os.close(fd)
            return pin
        fd = syscall.create_link(prog_fd, target_fd, attach_type)
        try:
            syscall.pin(fd, pin)
        finally:
            os.close(fd)
        return pin

    def count(self) -> int:
        """Sockets that are held."""
        fd = syscall.open_pinned(self._pins["sockets"])
        try:
            return syscall.count_keys(fd, SOCKET_KEY)
        finally:
            os.close(fd)

    def write_namespace(self, ips: Iterable[int], cookie: int) -> None:
        """Sockets with these addresses are a pod's in this network namespace. Raises OSError."""
        keys = rows.endpoint_keys(ips).astype(self._maps["pod_netns"].key_dtype)
        self._maps["pod_netns"].update(keys, np.full(len(keys), cookie, self._maps["pod_netns"].value_dtype))

    def delete_namespaces(self, ips: Iterable[int]) -> None:
        """Idempotent."""
        table = self._maps["pod_netns"]
        table.delete(rows.endpoint_keys(ips).astype(table.key_dtype))

    def keep_namespaces(self, ips: Iterable[int]) -> None:
        """Of what an agent before this one has written."""
        table = self._maps["pod_netns"]
        held = table.read()[0]
        table.delete(held[~np.isin(held, rows.endpoint_keys(ips).astype(table.key_dtype))])


def _force(maps: Maps, version: int) -> None:
    maps[_FORCE].update(np.zeros(1, np.uint32), np.full(1, version, np.uint32))


def remove(root: Path) -> None:
    """What runs goes by the veth pair from here on, and no more sockets come. Idempotent."""
    links, maps = root / _LINKS, root / "maps"
    for pin in read_pins(maps, _FORCE) if maps.is_dir() else ():
        fd = syscall.open_pinned(pin)
        try:
            syscall.batch(syscall.MAP_UPDATE_BATCH, fd, np.zeros(1, np.uint32), np.full(1, _NONE, np.uint32))
        finally:
            os.close(fd)
    if links.is_dir():
        for pin in links.iterdir():
            pin.unlink()
        links.rmdir()
