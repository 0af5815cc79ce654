"""Presence of this process in etcd, under a lease; no fact ever hangs on it (I5)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from kilim.kvstore.client import EtcdClient


class Session:
    """`run()` belongs in the caller's TaskGroup: it grants the lease, keeps it alive, grants anew when lost."""

    def __init__(self, client: EtcdClient, cluster: str = "default", *, ttl_s: int = 10) -> None:
        raise NotImplementedError

    @property
    def is_live(self) -> bool:
        raise NotImplementedError

    async def run(self) -> None:
        raise NotImplementedError

    def announce(self, name: str, value: bytes) -> None:
        """Keeps `member/<name>` = value (the advertised address) under whatever lease we hold."""
        raise NotImplementedError

    async def members(self) -> dict[str, bytes]:
        raise NotImplementedError

    def watch_members(self) -> AsyncIterator[dict[str, bytes]]:
        """The present members, and again after every change."""
        raise NotImplementedError

    async def close(self) -> None:
        """Revokes the lease: presence and leadership go at once."""
        raise NotImplementedError
