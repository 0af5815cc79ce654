"""History out of exported segments: no server, no etcd (`kilim log export` writes them)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from kilim.cli.history.source import Base
from kilim.kvstore.commit import Commit
from kilim.kvstore.segments import SegmentDirectory
from kilim.kvstore.snapshot import SnapshotManifest
from kilim.kvstore.span import Span


class SegmentHistory:
    """As of the moment it was made. Several directories are read as one log."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self.directory = SegmentDirectory(directories)

    def span(self) -> Span:
        return self.directory.span()

    def commits(self, from_seq: int, to_seq: int | None = None) -> Iterator[Commit]:
        return self.directory.commits(from_seq, to_seq)

    def snapshot_seqs(self) -> list[int]:
        return [manifest.seq for manifest in self.directory.snapshots()]

    def base(self, at_seq: int) -> Base | None:
        fitting = [manifest for manifest in self.directory.snapshots() if manifest.seq <= at_seq]
        return self._open(fitting[-1]) if fitting else None

    def snapshot(self, seq: int) -> Base | None:
        return next((self._open(one) for one in self.directory.snapshots() if one.seq == seq), None)

    def _open(self, manifest: SnapshotManifest) -> Base:
        records = (record for part in self.directory.read_snapshot(manifest) for record in part)
        return Base(manifest.seq, manifest.chain, manifest.state_digest, records, manifest.time_ns)
