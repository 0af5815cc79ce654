"""`kilim log export` and `kilim log restore` killed in the middle: run again, they end as if nothing had been."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import Commit
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.errors import BeingRestored
from kilim.kvstore.keys import Keys
from kilim.kvstore.log import EventLog
from kilim.kvstore.segments import SegmentDirectory, write_segments

COMMITS = 400
KILIM = "from kilim.cli.main import main; main()"


async def _fill(log: EventLog) -> list[Commit]:
    head = await log.head()
    commits = []
    for number in range(COMMITS):
        commit, head = await log.append(head, [b"%d-%d" % (number, n) + bytes(6000) for n in range(8)])
        commits.append(commit)
    return commits


async def _start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILIM, "log", *arguments, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )


async def _run(*arguments: str) -> str:
    process = await _start(*arguments)
    out, error = await process.communicate()
    assert process.returncode == 0, error
    return out.decode()


async def _killed_when(process: asyncio.subprocess.Process, so_far: Callable[[], bool]) -> None:
    """Or when it has ended: on a slow machine that comes first."""
    async with asyncio.timeout(60):
        while process.returncode is None and not so_far():  # noqa: ASYNC110  # files have no event to wait for
            await asyncio.sleep(0.001)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    await process.communicate()


@pytest.mark.parametrize("least_keys", [1, 100, 300])
async def test_a_killed_restore(etcd: EmbeddedEtcd, client: EtcdClient, tmp_path: Path, least_keys: int) -> None:
    log, directory = EventLog(client), tmp_path / "segments"
    commits = await _fill(log)
    directory.mkdir()  # noqa: ASYNC240
    await asyncio.to_thread(lambda: list(write_segments(directory, commits, 1 << 20)))
    restore = ["restore", "--segments", str(directory), "--etcd-endpoints", etcd.endpoints[0], "--cluster", "copy"]
    copy, keys, count = EventLog(client, "copy"), Keys("copy"), 0

    async def watch() -> None:
        nonlocal count
        async with contextlib.aclosing(client.watch_prefix(keys.prefix)) as batches:
            async for batch in batches:
                count += len(batch)

    watching = asyncio.create_task(watch())
    await _killed_when(await _start(*restore), lambda: count >= least_keys)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    if least_keys == 1 or await _is_half(copy):
        with pytest.raises(BeingRestored, match="has not ended"):
            await copy.head()
        await _run(*restore)
    head, there = await log.head(), await copy.head()
    assert (there.next_seq, there.chain) == (head.next_seq, head.chain)
    assert [commit async for commit in copy.read(1)] == commits


async def test_a_killed_export(etcd: EmbeddedEtcd, client: EtcdClient, tmp_path: Path) -> None:
    commits, directory = await _fill(EventLog(client)), tmp_path / "out"
    export = ["export", str(directory), "--etcd-endpoints", etcd.endpoints[0]]
    for least_files in (1, 2):
        await _killed_when(await _start(*export), lambda least=least_files: len(_names(directory)) >= least)  # type: ignore[misc]
    assert "all verified" in await _run(*export)
    assert all(name.endswith(".segment") for name in _names(directory))
    assert list(SegmentDirectory([directory]).commits(1)) == commits
    out = await _run("verify", "--segments", str(directory), "--etcd-endpoints", etcd.endpoints[0])
    assert out.startswith(f"ok: events 1..{8 * COMMITS}, ")


async def _is_half(log: EventLog) -> bool:
    try:
        await log.head()
    except BeingRestored:
        return True
    return False


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()] if directory.is_dir() else []
