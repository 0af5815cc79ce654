"""The etcd client, with etcd3's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM bytes."""

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    server_name: str | None = None


class EtcdClient:
    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        tls: Tls | None = None,
        user: str | None = None,
        password: str | None = None,
    ) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError
