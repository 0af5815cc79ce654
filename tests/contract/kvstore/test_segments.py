"""Exported logs: what was written is what is read, several directories are one log, and nothing damaged passes."""

from __future__ import annotations

import fcntl
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from kilim.kvstore.commit import CHAIN_START, Commit, encode_commit
from kilim.kvstore.errors import LogBroken, NoSegments, SnapshotBroken, Trimmed
from kilim.kvstore.segments import SegmentDirectory, remove_leftovers, write_segments, write_snapshot
from kilim.kvstore.snapshot import SnapshotManifest, describe_parts
from kilim.kvstore.span import Span


def _commits(
    sizes: Sequence[int], word: str = "record", first_seq: int = 1, chain: bytes = CHAIN_START
) -> list[Commit]:
    commits = []
    for size in sizes:
        records = [f"{word} {first_seq + n}".encode() for n in range(size)]
        commits.append(encode_commit(first_seq, chain, records, f"w-{first_seq}"))
        first_seq, chain = commits[-1].last_seq + 1, commits[-1].chain_after
    return commits


def _write(directory: Path, commits: Sequence[Commit], segment_bytes: int = 1 << 20) -> list[Path]:
    directory.mkdir(exist_ok=True)
    return list(write_segments(directory, commits, segment_bytes))


def _manifest(commit: Commit, parts: list[list[bytes]]) -> SnapshotManifest:
    return describe_parts(commit.last_seq, commit.chain_after, bytes(32), 17, parts)


PARTS = [[b"one", b"two"], [b"", b"three" * 100], [b"four"]]


def _all(*directories: Path) -> list[Commit]:
    return list(SegmentDirectory(directories).commits(1))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    commits = _commits([1, 3, 70, 1, 1, 200, 5] * 10)
    paths = _write(tmp_path, commits, segment_bytes=2000)
    assert len(paths) > 10
    assert paths == sorted(paths)
    assert sorted(tmp_path.iterdir()) == paths
    directory = SegmentDirectory([tmp_path])
    assert directory.span() == Span(1, CHAIN_START, commits[-1].last_seq, commits[-1].chain_after)
    assert list(directory.commits(1)) == commits
    rng = random.Random(5)
    for _ in range(60):
        low = rng.randint(1, commits[-1].last_seq)
        high = rng.randint(low, commits[-1].last_seq)
        expected = [commit for commit in commits if commit.last_seq >= low and commit.first_seq <= high]
        assert list(directory.commits(low, high)) == expected
    assert list(directory.commits(commits[-1].last_seq + 1)) == []
    assert list(directory.commits(commits[-1].last_seq + 100)) == []


def test_the_same_commits_give_the_same_bytes(tmp_path: Path) -> None:
    commits = _commits([4, 4])
    (one,), (other,) = _write(tmp_path / "a", commits), _write(tmp_path / "b", commits)
    assert one.name == other.name and one.read_bytes() == other.read_bytes()


def test_a_log_that_begins_later(tmp_path: Path) -> None:
    commits = _commits([5] * 10)
    _write(tmp_path, commits[4:])
    directory = SegmentDirectory([tmp_path])
    assert directory.span() == Span(21, commits[3].chain_after, 50, commits[-1].chain_after)
    assert list(directory.commits(21)) == commits[4:]
    with pytest.raises(Trimmed) as trimmed:
        list(directory.commits(20))
    assert trimmed.value.first_seq == 21


def test_several_directories_are_one_log(tmp_path: Path) -> None:
    commits = _commits([3] * 40)
    _write(tmp_path / "old", commits[:20], 200)
    _write(tmp_path / "new", commits[20:], 200)
    _write(tmp_path / "beside", commits[7:33], 300)
    _write(tmp_path / "again", commits[:20], 200)
    assert _all(tmp_path / "beside", tmp_path / "new", tmp_path / "again", tmp_path / "old") == commits


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(NoSegments, match="no segments in"):
        SegmentDirectory([tmp_path]).span()
    with pytest.raises(NoSegments, match="not a directory"):
        SegmentDirectory([tmp_path / "absent"])


def test_a_gap_names_the_files_and_the_event(tmp_path: Path) -> None:
    commits = _commits([2] * 30)
    paths = _write(tmp_path, commits, 300)
    paths[2].unlink()
    with pytest.raises(LogBroken, match=f"a gap: {paths[1]} ends before it, {paths[3]} begins after it") as broken:
        SegmentDirectory([tmp_path])
    assert broken.value.seq == int(paths[1].name[21:41]) + 1


@pytest.mark.parametrize("first", [0, 4, 7])
def test_another_history_is_found_out(tmp_path: Path, first: int) -> None:
    commits = _commits([2] * 20)
    _write(tmp_path / "ours", commits)
    chain = commits[first - 1].chain_after if first else CHAIN_START
    theirs = _commits([2, 2], "forged", 2 * first + 1, chain)
    _write(tmp_path / "theirs", theirs)
    with pytest.raises(LogBroken, match="theirs") as broken:
        _all(tmp_path / "ours", tmp_path / "theirs")
    assert broken.value.seq == 2 * first + 4


def test_what_follows_another_chain_is_found_out(tmp_path: Path) -> None:
    _write(tmp_path / "ours", _commits([2] * 5))
    _write(tmp_path / "theirs", _commits([2], "record", 11, bytes([1]) * 32))
    with pytest.raises(LogBroken, match="theirs.*ours") as broken:
        _all(tmp_path / "ours", tmp_path / "theirs")
    assert broken.value.seq == 10


def test_commits_that_do_not_follow_are_not_written(tmp_path: Path) -> None:
    commits = _commits([2] * 5)
    with pytest.raises(LogBroken, match="gap"):
        _write(tmp_path, [*commits[:2], commits[3]])
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    commits = _commits([1, 30, 2, 60] * 3)
    paths = _write(tmp_path, commits, 1500)
    path = paths[1]
    whole = path.read_bytes()
    rng = random.Random(2)
    offsets = [*range(150), *range(len(whole) - 40, len(whole)), *(rng.randrange(len(whole)) for _ in range(300))]
    for offset in offsets:
        changed = bytearray(whole)
        changed[offset] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(LogBroken, match=str(path)) as broken:
            _all(tmp_path)
        assert broken.value.seq == int(path.name[:20])
    path.write_bytes(whole)
    assert _all(tmp_path) == commits


def test_every_truncation_and_every_appendix_is_found(tmp_path: Path) -> None:
    (path,) = _write(tmp_path, _commits([1, 30, 2]))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(LogBroken, match=f"{path}: truncated: it has {length} "):
            _all(tmp_path)
    path.write_bytes(whole + b"x")
    with pytest.raises(LogBroken, match="it should have"):
        _all(tmp_path)


def test_other_versions_other_files_and_other_names(tmp_path: Path) -> None:
    (path,) = _write(tmp_path, _commits([1, 30, 2]))
    whole = path.read_bytes()
    path.write_bytes(whole[:11] + b"\x02" + whole[12:])
    with pytest.raises(LogBroken, match="it has version 2, this program reads version 1"):
        _all(tmp_path)
    path.write_bytes(b"#!/bin/sh\nexit 0\n" * 3)
    with pytest.raises(LogBroken, match="it is no segment"):
        _all(tmp_path)
    path.write_bytes(whole)
    path.rename(tmp_path / "my.segment")
    with pytest.raises(LogBroken, match=r"my.segment: its name is not that of a segment of 1 to 33"):
        _all(tmp_path)


def test_temporary_files_are_nothing_and_are_removed_with_their_writer(tmp_path: Path) -> None:
    commits = _commits([1, 30, 2])
    (path,) = _write(tmp_path, commits)
    dead = tmp_path / f".{path.name}.00.tmp"
    dead.write_bytes(path.read_bytes()[:50])
    alive = tmp_path / f".{path.name}.01.tmp"
    with alive.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert _all(tmp_path) == commits
        assert remove_leftovers(tmp_path) == [dead]
    assert remove_leftovers(tmp_path) == [alive]
    assert list(tmp_path.iterdir()) == [path]


def test_snapshots_beside_segments(tmp_path: Path) -> None:
    commits = _commits([5] * 10)
    _write(tmp_path, commits[4:])
    manifests = [_manifest(commits[number], PARTS) for number in (6, 3)]
    for manifest in manifests:
        write_snapshot(tmp_path, manifest, iter(PARTS))
    directory = SegmentDirectory([tmp_path])
    assert directory.snapshots() == manifests[::-1]
    assert [list(directory.read_snapshot(manifest)) for manifest in manifests] == [PARTS, PARTS]
    assert directory.span().first_seq == 21


def test_an_empty_snapshot_and_a_directory_with_nothing_else(tmp_path: Path) -> None:
    (commit,) = _commits([7])
    write_snapshot(tmp_path, _manifest(commit, []), [])
    directory = SegmentDirectory([tmp_path])
    (manifest,) = directory.snapshots()
    assert list(directory.read_snapshot(manifest)) == []
    assert directory.span() == Span(8, commit.chain_after, 7, commit.chain_after)


def test_parts_that_are_not_those_of_the_manifest_are_not_written(tmp_path: Path) -> None:
    (commit,) = _commits([7])
    manifest = _manifest(commit, PARTS)
    for parts in (PARTS[:2], [*PARTS, [b"five"]], [PARTS[0], PARTS[2], PARTS[1]]):
        with pytest.raises(SnapshotBroken):
            write_snapshot(tmp_path, manifest, parts)
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_bit_of_a_snapshot_is_found(tmp_path: Path) -> None:
    (commit,) = _commits([7])
    path = write_snapshot(tmp_path, _manifest(commit, PARTS), PARTS)
    whole = path.read_bytes()
    rng = random.Random(8)
    for offset in range(len(whole)):
        changed = bytearray(whole)
        changed[offset] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        directory = SegmentDirectory([tmp_path])
        if directory.snapshots():
            with pytest.raises(SnapshotBroken, match="7"):
                list(directory.read_snapshot(directory.snapshots()[0]))
        else:
            (broken,) = directory.broken_snapshots
            assert str(path) in broken.reason
