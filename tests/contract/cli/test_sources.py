"""One history read from a replica, from etcd, from segments and from what is left of each: the same answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import Commit
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.log import EventLog
from kilim.kvstore.segments import write_segments, write_snapshot
from kilim.kvstore.snapshots import SnapshotStore
from kilim.model.fold import fold_record
from kilim.model.snapshot import encode_parts, freeze
from kilim.model.state import State
from tests.contract.cli.world import kilim, shop
from tests.contract.controlplane.harness import replica

pytestmark = pytest.mark.asyncio(loop_scope="session")
VERBS = (
    ["replay", "--node", "node2"],
    ["replay", "--node", "node2", "-o", "wide"],
    ["replay", "--node", "node2", "--to", "10", "-o", "json"],
    ["replay", "--node", "node2", "--to", "7", "--diff", "12"],
)


async def export(log: EventLog, directory: Path, to_seq: int | None = None) -> None:
    commits = [commit async for commit in log.read(1, to_seq)]
    list(await asyncio.to_thread(lambda: list(write_segments(directory, commits, 400))))


async def publish(log: EventLog, store: SnapshotStore, seq: int) -> None:
    """The snapshot of the end of the commit that holds `seq`."""
    state, last = State(), None
    async for commit in log.read(1, seq):
        last = commit
        for number, record in enumerate(commit.records, commit.first_seq):
            fold_record(state, number, record)
    assert isinstance(last, Commit)
    await store.publish(last.last_seq, last.chain_after, state.digest, 0, encode_parts(freeze(state)))


async def test_every_source_gives_the_same(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    client = EtcdClient(etcd.endpoints)
    log, store = EventLog(client, cluster), SnapshotStore(client, cluster)
    async with replica(etcd.endpoints, cluster) as r:
        await shop(r)
        server = ["--server", r.address]
        wanted = [await kilim(*verb, *server) for verb in VERBS]
        assert all(status == 0 and stdout for status, stdout, _ in wanted)
        await export(log, tmp_path)
        direct = ["--etcd-endpoints", ",".join(etcd.endpoints), "--cluster", cluster]
        segments = ["--segments", str(tmp_path)]
        for source in (direct, segments, segments + direct, segments + server):
            assert [await kilim(*verb, *source) for verb in VERBS] == wanted, source

        await publish(log, store, 7)
        await log.trim(8)
        short = ["replay", "--node", "node2", "--to", "5"]
        assert await kilim(*short, *direct) == (
            1, "", "error: the log begins at seq 8: what was before it has been trimmed\n",
        )  # fmt: skip
        for source in (segments + direct, segments):
            assert [await kilim(*verb, *source) for verb in VERBS] == wanted, source
        rows = (await kilim(*VERBS[1], "--table", "ipcache", *direct))[1].splitlines()
        assert rows[-1].startswith("192.0.2.2/32    1          -                 <=7")
        plain = [verb for verb in VERBS if "wide" not in verb]
        assert [await kilim(*verb, *direct) for verb in plain] == [wanted[VERBS.index(verb)] for verb in plain]
    await client.close()


async def test_segments_with_a_snapshot_need_no_beginning(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    client = EtcdClient(etcd.endpoints)
    log, store = EventLog(client, cluster), SnapshotStore(client, cluster)
    async with replica(etcd.endpoints, cluster) as r:
        await shop(r)
        await publish(log, store, 7)
        manifest = (await store.manifests())[0]
        parts = [part async for part in store.read(manifest)]
        write_snapshot(tmp_path, manifest, parts)
        list(write_segments(tmp_path, [commit async for commit in log.read(8)]))
        for verb in VERBS[2:]:
            assert await kilim(*verb, "--segments", str(tmp_path)) == await kilim(*verb, "--server", r.address)
    await client.close()


async def test_segments_of_another_cluster_are_found_out(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    client = EtcdClient(etcd.endpoints)
    log, other = EventLog(client, cluster), EventLog(client, f"{cluster}-other")
    async with replica(etcd.endpoints, cluster) as r, replica(etcd.endpoints, f"{cluster}-other") as stranger:
        await shop(r)
        await shop(stranger)
        await export(other, tmp_path)
        await publish(log, SnapshotStore(client, cluster), 7)
        await log.trim(8)
        direct = ["--etcd-endpoints", ",".join(etcd.endpoints), "--cluster", cluster]
        status, stdout, stderr = await kilim(
            "replay", "--node", "node2", "-o", "wide", *direct, "--segments", str(tmp_path)
        )
        assert (status, stdout) == (1, "")
        assert stderr.startswith("error: log broken at seq 8: the commit follows chain ") and stderr.count("\n") == 1
    await client.close()


async def test_sources_that_are_none(tmp_path: Path) -> None:
    replay = ("replay", "--node", "node2")
    assert await kilim(*replay, "--segments", str(tmp_path)) == (1, "", f"error: no segments in {tmp_path}\n")
    status, _, stderr = await kilim(*replay, "--segments", str(tmp_path / "no"))
    assert status == 2 and "does not exist" in stderr
    both = await kilim(*replay, "--server", "127.0.0.1:1", "--etcd-endpoints", "http://127.0.0.1:1")
    assert both == (2, "", "error: --etcd-endpoints: goes without --server\n")


def damage_the_second(directory: Path) -> Path:
    path = sorted(directory.iterdir())[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


async def test_a_bit_that_is_not_what_was_written_is_one_line(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    client = EtcdClient(etcd.endpoints)
    async with replica(etcd.endpoints, cluster) as r:
        await shop(r)
        await export(EventLog(client, cluster), tmp_path)
    await client.close()
    path = damage_the_second(tmp_path)
    for verb in (*VERBS, ["log", "show"], ["log", "show", "-o", "json"]):
        status, _, stderr = await kilim(*verb, "--segments", str(tmp_path))
        assert (status, stderr.count("\n")) == (1, 1), verb
        assert stderr.startswith("error: ") and path.name in stderr


async def test_a_cluster_that_was_not_named_is_no_empty_log(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    manifest = tmp_path / "policy.yaml"
    manifest.write_text("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}")
    verbs = (
        ["log", "verify"],
        ["log", "show"],
        ["log", "export", str(tmp_path / "out")],
        ["replay", "--node", "node2"],
        ["simulate", "-f", str(manifest)],
        ["why", "--from", "shop/web", "--to", "shop/db", "--port", "1"],
    )
    endpoint = etcd.endpoints[0]
    async with EmbeddedEtcd(tmp_path / "empty") as empty:
        for verb in verbs:
            nothing = await kilim(*verb, "--etcd-endpoints", empty.endpoints[0])
            assert nothing == (1, "", f"error: no log in etcd {empty.endpoints[0]}: it holds nothing of Kilim\n"), verb
    async with replica(etcd.endpoints, cluster) as r:
        await shop(r)
    for verb in verbs:
        status, stdout, stderr = await kilim(*verb, "--etcd-endpoints", endpoint, "--cluster", "nobody")
        assert (status, stdout, stderr.count("\n")) == (1, "", 1), verb
        assert stderr.startswith(f'error: --cluster: no log of cluster "nobody" in etcd {endpoint}; there is ')
        assert f'"{cluster}"' in stderr
    status, _, stderr = await kilim("log", "verify", "--etcd-endpoints", endpoint, "--cluster", "a/b")
    assert status == 2 and stderr.startswith("error: --cluster: ") and stderr.count("\n") == 1
