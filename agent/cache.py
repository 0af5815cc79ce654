"""The node's own copy of the log's state on disk: a snapshot and the commits since, so that an agent enforces at once.

  snapshot                 frames of SnapshotPart; replaced atomically
  commits.<first seq>      frames of encoded Commits that follow; a new file at each snapshot
  frame                    u32 length, u32 CRC-32, payload (big endian)
Easy to get wrong: commits are written before the kernel is changed, so that after kill -9 the cache is never older than
the kernel. Page cache survives kill -9, and what is lost with the machine is lost in the kernel too: no fsync a commit.
"""

import os
import shutil
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog
from google.protobuf.message import DecodeError

from kilim.agent.replica import Replica
from kilim.kvstore.commit import Commit, decode_commit
from kilim.kvstore.errors import LogBroken
from kilim.model.snapshot import Frozen, decode_records, encode_parts, freeze
from kilim.v1 import controlplane_pb2 as pb

log = structlog.get_logger(__name__)

_FRAME = struct.Struct(">II")
_FRAME_BYTES_MAX = 8 << 20
_REWRITE_COMMITS = 20_000
_REWRITE_BYTES = 8 << 20
_SNAPSHOT = "snapshot"
_COMMITS = "commits."


class CacheBroken(Exception):
    """What is on disk cannot be used; says which file and why."""


class Draft(NamedTuple):
    """A snapshot to be written; a later `generation` makes it needless."""

    frozen: Frozen
    chain: bytes
    generation: int


class DiskCache:
    """One per state directory. `append` and `begin` are cheap and inline; `rewrite` belongs into a thread."""

    def __init__(self, directory: Path, rewrite_commits: int = _REWRITE_COMMITS, rewrite_bytes: int = _REWRITE_BYTES):
        self._directory = directory
        self._rewrite_commits = rewrite_commits
        self._rewrite_bytes = rewrite_bytes
        self._file: int | None = None
        self._commits = 0
        self._bytes = 0
        self._snapshot_bytes = 0
        self._generation = 0
        self._owes_snapshot = False  # a rewrite was begun and did not succeed
        self._disk = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def load(self, node: str) -> Replica | None:
        """What was known at the last moment; None where there is nothing. A broken cache is set aside."""
        try:
            return self._load(node)
        except (CacheBroken, LogBroken, DecodeError, OSError, ValueError) as error:
            self._set_aside(str(error))
            return None

    def append(self, commits: Sequence[Commit]) -> None:
        """Follow the replica. Raises OSError (a full disk) once; the cache is then void until it is rewritten."""
        if self._file is None:
            return
        data = b"".join(_frame(commit.encoded) for commit in commits)
        self._commits += len(commits)
        self._bytes += len(data)
        try:
            _write_all(self._file, data)
        except OSError:
            self.void()  # older than the kernel is worse than none, and an unlink needs no space
            raise

    def void(self) -> None:
        """What is on disk does not lead to the present state any more; nothing is kept until the next rewrite."""
        self._generation += 1
        self.close()
        (self._directory / _SNAPSHOT).unlink(missing_ok=True)
        for _, path in self._segments():
            path.unlink(missing_ok=True)

    @property
    def wants_rewrite(self) -> bool:
        full = self._commits >= self._rewrite_commits or self._bytes >= max(self._rewrite_bytes, self._snapshot_bytes)
        return full or self._file is None or self._owes_snapshot

    def start_segment(self, after_seq: int) -> None:
        """Commits after `after_seq` go to a new file from now on; `rewrite` then makes the older ones needless. After
        an OSError they go where they went before."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        file = os.open(self._directory / f"{_COMMITS}{after_seq + 1:020d}", flags, 0o600)
        self.close()
        self._file = file
        self._commits = self._bytes = 0

    def freeze(self, replica: Replica) -> Draft:
        """What `rewrite` is to write, and a new segment behind it. Cheap. Raises OSError; nothing is lost then."""
        self._generation += 1
        draft = Draft(freeze(replica.state), replica.chain, self._generation)
        self.start_segment(replica.seq)
        self._owes_snapshot = True
        return draft

    def rewrite(self, draft: Draft) -> None:
        """Blocking: a new snapshot, then the files that it makes needless go."""
        with self._disk:
            if draft.generation < self._generation:
                return
            path = self._directory / "snapshot.draft"
            size = _write_snapshot(path, draft)
            if draft.generation < self._generation:
                path.unlink()
                return
            path.replace(self._directory / _SNAPSHOT)
            self._snapshot_bytes = size
            self._owes_snapshot = False
            for first_seq, path in self._segments():
                if first_seq <= draft.frozen.seq:
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _load(self, node: str) -> Replica | None:
        replica = Replica(node)
        snapshot = self._directory / _SNAPSHOT
        if snapshot.exists():
            _load_snapshot(replica, snapshot)
            self._snapshot_bytes = snapshot.stat().st_size
        segments = self._segments()
        for number, (_, path) in enumerate(segments, 1):
            data = path.read_bytes()
            whole = 0
            for payload, end in _frames(path, data, tail_may_miss=number == len(segments)):
                whole = end
                commit = decode_commit(payload)
                if commit.last_seq > replica.seq:
                    replica.replay_commit(commit)
                self._commits += 1
            if whole < len(data):
                log.warning("the cache's last commit is incomplete", file=path.name, bytes=len(data) - whole)
                os.truncate(path, whole)
            self._bytes += whole
        if replica.seq == 0:
            return None
        if segments:
            self._file = os.open(segments[-1][1], os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        else:
            self.start_segment(replica.seq)
        return replica

    def _segments(self) -> list[tuple[int, Path]]:
        found = [(int(path.name[len(_COMMITS) :]), path) for path in self._directory.glob(f"{_COMMITS}*")]
        return sorted(found)

    def _set_aside(self, reason: str) -> None:
        self.close()
        self._commits = self._bytes = self._snapshot_bytes = 0
        aside = self._directory / "broken"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700)
        for path in [*self._directory.glob(f"{_SNAPSHOT}*"), *self._directory.glob(f"{_COMMITS}*")]:
            path.rename(aside / path.name)
        log.error("the cache is broken; set aside, starting empty", reason=reason, moved_to=str(aside))


def _write_snapshot(path: Path, draft: Draft) -> int:
    seq, digest = draft.frozen.seq, draft.frozen.state_digest
    size = 0
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        for records in encode_parts(draft.frozen):
            size += file.write(_frame(pb.SnapshotPart(seq=seq, records=records).SerializeToString()))
        last = pb.SnapshotPart(seq=seq, chain=draft.chain, state_digest=digest, last=True)
        size += file.write(_frame(last.SerializeToString()))
        file.flush()
        os.fsync(file.fileno())
    return size


def _load_snapshot(replica: Replica, path: Path) -> None:
    part = pb.SnapshotPart()
    for payload, _ in _frames(path, path.read_bytes(), False):
        part = pb.SnapshotPart.FromString(payload)
        replica.load_part(decode_records(part.records))
    if not part.last:
        raise CacheBroken(f"{path.name}: it ends early")
    replica.finish_snapshot(part.seq, part.chain, part.state_digest)


def _frame(payload: bytes) -> bytes:
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _frames(path: Path, data: bytes, tail_may_miss: bool) -> Iterator[tuple[bytes, int]]:
    """(payload, offset behind it). A frame cut off at the end of the file ends it, or breaks it."""
    offset = 0
    while offset < len(data):
        start = offset + _FRAME.size
        length, crc = _FRAME.unpack_from(data, offset) if start <= len(data) else (0, 0)
        if start > len(data) or start + length > len(data):
            if tail_may_miss and length <= _FRAME_BYTES_MAX:
                return
            raise CacheBroken(f"{path.name}: cut off at byte {offset}")
        payload = data[start : start + length]
        if zlib.crc32(payload) != crc:
            raise CacheBroken(f"{path.name}: wrong checksum at byte {offset}")
        offset = start + length
        yield payload, offset


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
