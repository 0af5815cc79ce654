"""History out of etcd itself, for when no replica of the control plane runs.

Easy to get wrong: the loop runs only while something is asked for, so whoever forgets to close leaves tasks asleep.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from kilim.cli.failure import BadUsage, Failure
from kilim.cli.history.source import Base
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.clusters import clusters
from kilim.kvstore.commit import Commit
from kilim.kvstore.errors import BeingRestored, KvError, Unavailable
from kilim.kvstore.keys import Keys
from kilim.kvstore.log import EventLog
from kilim.kvstore.snapshots import SnapshotManifest, SnapshotStore
from kilim.kvstore.span import Span

BATCH = 64
T = TypeVar("T")


class EtcdHistory:
    def __init__(self, endpoints: Sequence[str], cluster: str) -> None:
        try:
            Keys(cluster)
        except ValueError as error:
            raise BadUsage(f"--cluster: {error}") from None
        self._endpoints, self._cluster = endpoints, cluster
        self._runner = asyncio.Runner()
        self._client = self._run(_connected(endpoints))
        self._log = EventLog(self._client, cluster)
        self._snapshots = SnapshotStore(self._client, cluster)
        self._span: Span | None = None
        self._closed = False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._run(self._client.close())
            self._runner.close()

    def span(self) -> Span:
        if self._span is None:
            span = self._run(self._log.span())
            if span.last_seq == 0:
                raise self._no_log(self._run(clusters(self._client)))
            self._span = span
        return self._span

    def _no_log(self, found: dict[str, bool]) -> Failure:
        """A cluster that was not named, or misspelt, is no empty log."""
        etcd = f"etcd {', '.join(self._endpoints)}"
        others = ", ".join(f'"{name}"' for name, has_log in found.items() if has_log)
        if others:
            return Failure(f'--cluster: no log of cluster "{self._cluster}" in {etcd}; there is {others}')
        if self._cluster in found:
            return Failure(f'the log of cluster "{self._cluster}" in {etcd} holds no event yet')
        return Failure(f"no log in {etcd}: it holds nothing of Kilim")

    def commits(self, from_seq: int, to_seq: int | None = None) -> Iterator[Commit]:
        last = self.span().last_seq if to_seq is None else to_seq
        return iter(()) if from_seq > last else self._each(self._log.read(from_seq, last))

    def snapshot_seqs(self) -> list[int]:
        return [one.seq for one in self._run(self._snapshots.examine())]

    def base(self, at_seq: int) -> Base | None:
        fitting = [manifest for manifest in self._run(self._snapshots.manifests()) if manifest.seq <= at_seq]
        return self._open(fitting[-1]) if fitting else None

    def snapshot(self, seq: int) -> Base | None:
        manifest = self._run(self._snapshots.manifest(seq))
        return self._open(manifest) if manifest is not None else None

    def _open(self, manifest: SnapshotManifest) -> Base:
        records = (record for part in self._each(self._snapshots.read(manifest)) for record in part)
        return Base(manifest.seq, manifest.chain, manifest.state_digest, records, manifest.time_ns)

    def _run(self, asked: Coroutine[Any, Any, T]) -> T:
        try:
            return self._runner.run(asked)
        except BeingRestored:
            raise
        except Unavailable as error:
            raise self._no_etcd(error) from None

    def _no_etcd(self, error: KvError) -> Failure:
        return no_etcd(self._endpoints, error)

    def _each(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        failure: KvError | None = None
        try:
            while failure is None:
                batch, failure = self._run(_some(items))
                yield from batch
                if failure is None and len(batch) < BATCH:
                    return
            if isinstance(failure, Unavailable):
                raise self._no_etcd(failure)
            raise failure
        finally:
            if not self._closed:
                self._run(items.aclose())


def no_etcd(endpoints: Sequence[str], error: KvError) -> Failure:
    """gRPC's words about it are many, and the last of them tell."""
    why = str(error).rpartition(": ")[2].lower()
    return Failure(f"no etcd can do this now; tried {', '.join(endpoints)} ({why})")


async def _connected(endpoints: Sequence[str]) -> EtcdClient:
    return EtcdClient(endpoints)


async def _some(items: AsyncGenerator[T, None]) -> tuple[list[T], KvError | None]:
    """The next few, and what came instead of one; fewer than BATCH and no failure: that was all."""
    batch: list[T] = []
    try:
        async for item in items:
            batch.append(item)
            if len(batch) == BATCH:
                break
    except KvError as error:
        return batch, error
    return batch, None
