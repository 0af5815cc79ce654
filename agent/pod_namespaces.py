"""Which network namespace each pod of this node is in, for the programs that go from socket to socket.

A pod that was connected while there were none is not known: its connections go by its veth pair, as all do then.
"""

import os
import socket
import struct
from collections.abc import Collection
from typing import Protocol

import structlog

from kilim.agent.netlink.namespaces import in_namespace

log = structlog.get_logger(__name__)

_SO_NETNS_COOKIE = 71  # asm-generic/socket.h


class Table(Protocol):
    def write_namespace(self, ips: Collection[int], cookie: int) -> None: ...
    def delete_namespaces(self, ips: Collection[int]) -> None: ...
    def keep_namespaces(self, ips: Collection[int]) -> None: ...


class PodNamespaces:
    """`table` None: nobody wants to know."""

    def __init__(self, table: Table | None) -> None:
        self._table = table

    def add(self, ips: Collection[int], netns: str) -> None:
        """Of a pod that is being connected. What fails is said in the log, and the pod's connections take their way
        all the same. Blocking, for less than a millisecond."""
        if self._table is None:
            return
        try:
            self._table.write_namespace(ips, read_cookie(netns))
        except OSError as error:
            log.warning("a pod's connections are not accelerated", netns=netns, reason=error.strerror or str(error))

    def remove(self, ips: Collection[int]) -> None:
        if self._table is not None:
            self._table.delete_namespaces(ips)

    def keep(self, ips: Collection[int]) -> None:
        """At start: of those that an agent before this one has written."""
        if self._table is not None:
            self._table.keep_namespaces(ips)


def read_cookie(netns: str) -> int:
    """The kernel's name of the namespace at this path, never used twice. Raises OSError."""
    fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return in_namespace(fd, _own_cookie)
    finally:
        os.close(fd)


def _own_cookie() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as any_socket:
        return int(struct.unpack("=Q", any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0])
