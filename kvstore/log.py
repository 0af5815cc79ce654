"""The append-only log in etcd: guarded appends, paged reads, following for ever (I3)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import Commit
from kilim.kvstore.head import LogHead

__all__ = ["EventLog", "LogHead"]


class EventLog:
    def __init__(self, client: EtcdClient, cluster: str = "default") -> None:
        raise NotImplementedError

    async def head(self) -> LogHead:
        raise NotImplementedError

    async def append(self, after: LogHead, records: Sequence[bytes]) -> tuple[Commit, LogHead]:
        raise NotImplementedError

    def read(self, from_seq: int, to_seq: int | None = None) -> AsyncIterator[Commit]:
        raise NotImplementedError

    def follow(self, from_seq: int, chain_before: bytes) -> AsyncIterator[Commit]:
        raise NotImplementedError
