"""One file of an exported log: a segment, which is some commits, or a snapshot. docs/segments.md has the bytes.

Easy to get wrong: commits and parts are in the file as they were in etcd, byte for byte; nothing is encoded again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kilim.kvstore.commit import Commit, decode_commit
from kilim.kvstore.cursor import Cursor
from kilim.kvstore.errors import LogBroken, SnapshotBroken
from kilim.kvstore.sealed_file import FileBroken, Kind, items_bytes, read_description, read_items, write_sealed
from kilim.kvstore.snapshot import SnapshotManifest, decode_manifest, decode_part, encode_manifest, encode_part

SEGMENT_SUFFIX = ".segment"
SNAPSHOT_SUFFIX = ".snapshot"
_SEGMENT = Kind(b"KILIMSEG", "segment")
_SNAPSHOT = Kind(b"KILIMSNP", "snapshot")
# first seq, last seq, number of commits, chain before, chain after
_DESCRIPTION = struct.Struct(">QQQ32s32s")
_SEQ_DIGITS = 20


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """What a segment says of itself. Its commits reach from `first_seq` to `last_seq`, without a gap."""

    path: Path
    first_seq: int
    last_seq: int
    commits: int
    chain_before: bytes
    chain_after: bytes


def segment_name(first_seq: int, last_seq: int) -> str:
    return f"{first_seq:0{_SEQ_DIGITS}}-{last_seq:0{_SEQ_DIGITS}}{SEGMENT_SUFFIX}"


def snapshot_name(seq: int) -> str:
    return f"{seq:0{_SEQ_DIGITS}}{SNAPSHOT_SUFFIX}"


def write_segment(directory: Path, commits: Sequence[Commit]) -> Path:
    """Commits that follow one another; raises LogBroken where they do not."""
    first, last = commits[0], commits[-1]
    cursor = Cursor(first.first_seq, first.chain_before)
    for commit in commits:
        cursor.advance(commit)
    description = _DESCRIPTION.pack(first.first_seq, last.last_seq, len(commits), first.chain_before, last.chain_after)
    path = directory / segment_name(first.first_seq, last.last_seq)
    encoded = [commit.encoded for commit in commits]
    write_sealed(path, _SEGMENT, description, encoded, items_bytes(map(len, encoded)))
    return path


def open_segment(path: Path) -> SegmentFile:
    """Reads the description alone. Raises LogBroken."""
    seq = _seq_of(path)
    try:
        description = read_description(path, _SEGMENT)
        if len(description) != _DESCRIPTION.size:
            raise FileBroken(f"its description has {len(description)} bytes")
    except FileBroken as broken:
        raise LogBroken(seq, f"{path}: {broken}") from broken
    found = SegmentFile(path, *_DESCRIPTION.unpack(description))
    if path.name != segment_name(found.first_seq, found.last_seq):
        raise LogBroken(seq, f"{path}: its name is not that of a segment of {found.first_seq} to {found.last_seq}")
    return found


def read_segment(segment: SegmentFile) -> list[Commit]:
    """All of it, after its digest was verified; that the commits follow one another is for the caller to see. Raises
    LogBroken."""
    try:
        commits = [decode_commit(item) for item in read_items(segment.path, _SEGMENT)]
    except FileBroken as broken:
        raise LogBroken(segment.first_seq, f"{segment.path}: {broken}") from broken
    except LogBroken as broken:
        raise LogBroken(segment.first_seq, f"{segment.path}: {broken.reason}") from broken
    if not commits:
        raise LogBroken(segment.first_seq, f"{segment.path}: it holds no commit")
    said = (segment.first_seq, segment.last_seq, segment.commits, segment.chain_before, segment.chain_after)
    first, last = commits[0], commits[-1]
    if said != (first.first_seq, last.last_seq, len(commits), first.chain_before, last.chain_after):
        raise LogBroken(segment.first_seq, f"{segment.path}: its commits are not those that it names")
    return commits


def write_snapshot(directory: Path, manifest: SnapshotManifest, parts: Iterable[list[bytes]]) -> Path:
    """Parts as `SnapshotStore.read` gives them; raises SnapshotBroken where they are not those of the manifest."""

    def encoded() -> Iterator[bytes]:
        count = 0
        for number, records in enumerate(parts):
            part = encode_part(records)
            if number >= len(manifest.part_digests):
                raise SnapshotBroken(manifest.seq, "it has more parts than its manifest names")
            decode_part(manifest, number, part)
            count += 1
            yield part
        if count < len(manifest.part_digests):
            raise SnapshotBroken(manifest.seq, "it has fewer parts than its manifest names")

    path = directory / snapshot_name(manifest.seq)
    size = items_bytes([manifest.bytes]) + items_bytes([0] * len(manifest.part_digests)) - items_bytes([0])
    write_sealed(path, _SNAPSHOT, encode_manifest(manifest), encoded(), size)
    return path


def open_snapshot(path: Path) -> SnapshotManifest:
    """Raises SnapshotBroken."""
    seq = _seq_of(path)
    try:
        description = read_description(path, _SNAPSHOT)
    except FileBroken as broken:
        raise SnapshotBroken(seq, f"{path}: {broken}") from broken
    manifest = decode_manifest(seq, description)
    if path.name != snapshot_name(seq):
        raise SnapshotBroken(seq, f"{path}: its name is not that of a snapshot of {seq}")
    return manifest


def read_snapshot(path: Path, manifest: SnapshotManifest) -> Iterator[list[bytes]]:
    """Its records, a part at a time, each one verified. Raises SnapshotBroken."""
    records = count = 0
    try:
        for number, part in enumerate(read_items(path, _SNAPSHOT)):
            if number >= len(manifest.part_digests):
                raise FileBroken("it has more parts than its manifest names")
            held = decode_part(manifest, number, part)
            records, count = records + len(held), count + 1
            yield held
        if (count, records) != (len(manifest.part_digests), manifest.records):
            raise FileBroken(f"it has {count} parts with {records} records, its manifest says otherwise")
    except FileBroken as broken:
        raise SnapshotBroken(manifest.seq, f"{path}: {broken}") from broken


def _seq_of(path: Path) -> int:
    """By its name; 0 where that is none of ours."""
    digits = path.name[:_SEQ_DIGITS]
    return int(digits) if digits.isascii() and digits.isdecimal() else 0
