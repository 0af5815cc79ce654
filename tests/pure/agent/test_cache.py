"""The disk cache gives back exactly what was written, tolerates a cut-off end, and sets aside what it cannot trust."""

import random
from pathlib import Path

import pytest

from kilim.agent.cache import DiskCache
from kilim.agent.replica import Replica
from tests.pure.agent.commits import NODE, some_log


def written(directory: Path, commits: int, snapshot_at: int = 2) -> Replica:
    """A cache with a snapshot after `snapshot_at` commits and the rest behind it."""
    cache, replica = DiskCache(directory), Replica(NODE)
    for number, commit in enumerate(some_log()[:commits], 1):
        replica.apply_commit(commit)
        if number == snapshot_at:
            cache.rewrite(cache.freeze(replica))
        else:
            cache.append([commit])
    cache.close()
    return replica


def loaded(directory: Path) -> Replica | None:
    cache = DiskCache(directory)
    replica = cache.load(NODE)
    cache.close()
    if replica is not None:
        replica.finish_replay()
    return replica


def same(one: Replica | None, other: Replica) -> bool:
    return one is not None and one.position == other.position and one.table_digest == other.table_digest


def test_nothing_there(tmp_path: Path) -> None:
    assert loaded(tmp_path) is None
    assert not (tmp_path / "broken").exists()


@pytest.mark.parametrize("snapshot_at", [2, 5, 15])
def test_what_was_written_is_read(tmp_path: Path, snapshot_at: int) -> None:
    replica = written(tmp_path, 15, snapshot_at)
    found = loaded(tmp_path)
    assert same(found, replica) and found is not None
    assert found.own_endpoints == replica.own_endpoints
    assert found.state_digest == replica.state_digest


def test_writing_goes_on_after_a_restart(tmp_path: Path) -> None:
    written(tmp_path, 8)
    cache = DiskCache(tmp_path)
    replica = cache.load(NODE)
    assert replica is not None
    replica.finish_replay()
    for commit in some_log()[8:]:
        replica.apply_commit(commit)
        cache.append([commit])
    cache.close()
    assert same(loaded(tmp_path), replica)


def test_a_cut_off_end_costs_the_last_commit_only(tmp_path: Path) -> None:
    written(tmp_path, 10)
    (segment,) = tmp_path.glob("commits.*")
    whole = segment.read_bytes()
    for cut in (1, 5, 20):
        segment.write_bytes(whole[:-cut])
        replica = loaded(tmp_path)
        assert replica is not None and replica.seq == written(tmp_path / f"cut{cut}", 9).seq
    cache = DiskCache(tmp_path)
    replica = cache.load(NODE)
    assert replica is not None
    replica.finish_replay()
    for commit in some_log()[9:12]:
        replica.apply_commit(commit)
        cache.append([commit])
    cache.close()
    assert same(loaded(tmp_path), replica)


@pytest.mark.parametrize("name", ["snapshot", "commits"])
def test_a_corrupt_file_is_set_aside(tmp_path: Path, name: str) -> None:
    chosen = random.Random(3)
    for attempt in range(10):
        directory = tmp_path / str(attempt)
        written(directory, 10)
        (victim,) = directory.glob(f"{name}*")
        data = bytearray(victim.read_bytes())
        data[chosen.randrange(8, len(data) // 2)] ^= 0x40
        victim.write_bytes(data)
        replica = loaded(directory)
        if replica is None:
            assert (directory / "broken").is_dir() and not list(directory.glob("snapshot"))
        else:  # the flipped bit made a length reach behind the end: as if cut off there
            assert replica.seq < 12


def test_a_missing_snapshot_is_a_gap(tmp_path: Path) -> None:
    written(tmp_path, 10)
    (tmp_path / "snapshot").unlink()
    assert loaded(tmp_path) is None
    assert (tmp_path / "broken").is_dir()


def test_a_rewrite_that_was_interrupted_leaves_the_old_snapshot_and_all_commits(tmp_path: Path) -> None:
    cache, replica, commits = DiskCache(tmp_path), Replica(NODE), some_log()
    for commit in commits[:4]:
        replica.apply_commit(commit)
    cache.rewrite(cache.freeze(replica))
    for number, commit in enumerate(commits[4:]):
        replica.apply_commit(commit)
        cache.append([commit])
        if number == 3:
            cache.freeze(replica)  # killed before `rewrite`
    cache.close()
    assert same(loaded(tmp_path), replica)


def test_it_asks_for_a_rewrite_after_many_commits(tmp_path: Path) -> None:
    cache, replica = DiskCache(tmp_path, rewrite_commits=3), Replica(NODE)
    assert cache.wants_rewrite
    commits = some_log()
    replica.apply_commit(commits[0])
    cache.rewrite(cache.freeze(replica))
    assert not cache.wants_rewrite
    for commit in commits[1:4]:
        replica.apply_commit(commit)
        cache.append([commit])
    assert cache.wants_rewrite
    cache.rewrite(cache.freeze(replica))
    assert not cache.wants_rewrite
    assert len(list(tmp_path.glob("commits.*"))) == 1
    cache.close()


def test_a_full_disk_voids_the_cache_and_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, replica, commits = DiskCache(tmp_path), Replica(NODE), some_log()
    replica.apply_commit(commits[0])
    cache.rewrite(cache.freeze(replica))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr("os.write", full)
        cache.append([commits[1]])
    cache.append([commits[2]])
    assert cache.wants_rewrite and loaded(tmp_path) is None


def test_a_new_file_that_cannot_be_made_leaves_the_old_one_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, replica, commits = DiskCache(tmp_path), Replica(NODE), some_log()
    replica.apply_commit(commits[0])
    cache.rewrite(cache.freeze(replica))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr("os.open", full)
        cache.freeze(replica)
    replica.apply_commit(commits[1])
    cache.append([commits[1]])
    cache.close()
    assert same(loaded(tmp_path), replica)


def test_a_snapshot_that_could_not_be_written_is_still_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, replica = DiskCache(tmp_path), Replica(NODE)
    replica.apply_commit(some_log()[0])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr("os.fsync", full)
        cache.rewrite(cache.freeze(replica))
    assert cache.wants_rewrite
    cache.rewrite(cache.freeze(replica))
    assert not cache.wants_rewrite
    cache.close()
    assert same(loaded(tmp_path), replica)
