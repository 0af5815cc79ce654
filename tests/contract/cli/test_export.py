"""`kilim log export|verify|restore` on a real etcd with a real replica: a whole round, and every damage is named."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import CHAIN_START, encode_commit
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.errors import SnapshotBroken
from kilim.kvstore.keys import Keys
from kilim.kvstore.log import EventLog
from kilim.kvstore.segments import SegmentDirectory, write_segments
from kilim.kvstore.snapshots import SnapshotStore
from kilim.model.fold import fold_record
from kilim.model.snapshot import encode_parts, freeze
from kilim.model.state import State
from kilim.v1.events_pb2 import Event
from tests.contract.cli.world import kilim, shop
from tests.contract.controlplane.harness import replica

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def publish(log: EventLog, store: SnapshotStore, seq: int) -> None:
    """The snapshot of the end of the commit that holds `seq`, taken just now."""
    state, chain = State(), CHAIN_START
    async for commit in log.read(1, seq):
        chain = commit.chain_after
        for number, record in enumerate(commit.records, commit.first_seq):
            fold_record(state, number, record)
    time_ns = Event.FromString(commit.records[-1]).time_ns
    try:
        await store.publish(state.seq, chain, state.digest, time_ns, encode_parts(freeze(state)))
    except SnapshotBroken:  # a replica that has just become the leader sweeps once
        await store.publish(state.seq, chain, state.digest, time_ns, encode_parts(freeze(state)))


def _direct(etcd: EmbeddedEtcd, cluster: str) -> list[str]:
    return ["--etcd-endpoints", ",".join(etcd.endpoints), "--cluster", cluster]


async def _flip(client: EtcdClient, key: bytes, at: int = -1) -> None:
    kv = await client.get(key)
    assert kv is not None
    changed = bytearray(kv.value)
    changed[at] ^= 1
    await client.put(key, bytes(changed))


async def test_a_whole_round(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    """Exported from a server, verified, restored beside it, and a replica on the copy says what the first said."""
    client = EtcdClient(etcd.endpoints)
    log, copy = EventLog(client, cluster), cluster + "-copy"
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05) as r:
        await shop(r)
        head = await log.head()
        await publish(log, SnapshotStore(client, cluster), 7)
        await r.until(lambda status: len(status.log.snapshots) == 1)
        status, out, _ = await kilim("log", "export", str(tmp_path / "a"), "--server", r.address)
        assert status == 0
        assert out.endswith(f"events 1 to {head.last_seq}, chain {head.chain.hex()}, all verified\n")
        again = await kilim("log", "export", str(tmp_path / "a"), *_direct(etcd, cluster))
        assert again == (0, f"nothing to add: {tmp_path / 'a'} holds events 1 to {head.last_seq}, all verified\n", "")
        await kilim("log", "export", str(tmp_path / "b"), *_direct(etcd, cluster))
        files = [[(path.name, path.read_bytes()) for path in sorted((tmp_path / d).iterdir())] for d in ("a", "b")]
        assert files[0] == files[1]
        line = f"ok: events 1..{head.last_seq}, chain {head.chain.hex()}"
        for source, counts in (
            (["--server", r.address], "1 snapshots, 0 segments"),
            (_direct(etcd, cluster), "1 snapshots, 0 segments"),
            (["--segments", str(tmp_path / "a")], "0 snapshots, 1 segments"),
            (["--segments", str(tmp_path / "a"), "--server", r.address], "1 snapshots, 1 segments"),
        ):
            assert await kilim("log", "verify", *source) == (0, f"{line}, {counts}\n", "")
        status, out, _ = await kilim("log", "restore", "--segments", str(tmp_path / "a"), *_direct(etcd, copy))
        assert status == 0 and f"restored events 1 to {head.last_seq}, chain {head.chain.hex()}" in out
        show = ["log", "show", "-o", "json"]
        assert await kilim(*show, *_direct(etcd, copy)) == await kilim(*show, "--server", r.address)
        async with replica(etcd.endpoints, copy) as restored:
            ours, theirs = await r.status(), await restored.status()
            assert (ours.seq, ours.chain, ours.state_digest) == (theirs.seq, theirs.chain, theirs.state_digest)
    status, _, error = await kilim("log", "restore", "--segments", str(tmp_path / "a"), *_direct(etcd, copy))
    assert status == 1 and error.startswith("error: there is a log already, up to event")
    await client.close()


async def test_a_trimmed_log_is_exported_with_its_beginning(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    client = EtcdClient(etcd.endpoints)
    log, store, copy = EventLog(client, cluster), SnapshotStore(client, cluster), cluster + "-copy"
    verb = ["replay", "--node", "node2", "-o", "json"]
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05) as r:
        last = await shop(r)
        await publish(log, store, 7)
        await log.trim(8)
        wanted = await kilim(*verb, "--server", r.address)
        for name, source in (("server", ["--server", r.address]), ("etcd", _direct(etcd, cluster))):
            directory = tmp_path / name
            assert (await kilim("log", "export", str(directory), *source))[0] == 0
            held = SegmentDirectory([directory])
            assert held.snapshots() == await store.manifests()
            assert (await kilim(*verb, "--segments", str(directory))) == wanted
            assert (await kilim("log", "verify", "--segments", str(directory)))[0] == 0
        await kilim("log", "restore", "--segments", str(tmp_path / "etcd"), *_direct(etcd, copy))
        assert await kilim(*verb, *_direct(etcd, copy)) == wanted
        assert (await kilim("log", "verify", *_direct(etcd, copy)))[1].startswith(f"ok: events 8..{last}, ")
        status, _, error = await kilim("log", "export", str(tmp_path / "x"), "--from", "3", "--server", r.address)
        assert (status, error) == (
            1, "error: --from: the log begins at event 8, what was before it has been trimmed\n",
        )  # fmt: skip
    await client.close()


async def test_a_part_of_the_log_has_the_state_before_it(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05) as r:
        last = await shop(r)
        server = ["--server", r.address]
        verb = ["replay", "--node", "node2", "-o", "json"]
        assert (await kilim("log", "export", str(tmp_path), "--from", "6", *server))[0] == 0
        begin = SegmentDirectory([tmp_path]).span().first_seq
        assert [one.seq for one in SegmentDirectory([tmp_path]).snapshots()] == [begin - 1]
        assert await kilim(*verb, "--segments", str(tmp_path)) == await kilim(*verb, *server)
        status, out, _ = await kilim("log", "export", str(tmp_path), "--to", str(last), "-o", "json", *server)
        assert status == 0 and json.loads(out)["first_seq"] == 1
        assert (await kilim("log", "verify", "--segments", str(tmp_path), *server))[0] == 0


async def test_an_export_goes_on_where_it_ended_and_mends_what_is_damaged(
    etcd: EmbeddedEtcd, cluster: str, tmp_path: Path
) -> None:
    client = EtcdClient(etcd.endpoints)
    log = EventLog(client, cluster)
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05) as r:
        last = await shop(r)
        commits = [commit async for commit in log.read(1)]
        paths = await asyncio.to_thread(lambda: list(write_segments(tmp_path, commits[:-2], 400)))
        (tmp_path / f".{paths[0].name}.00.tmp").write_bytes(b"half")
        verb = ["log", "export", str(tmp_path), "--server", r.address]
        assert (await kilim(*verb))[0] == 0
        assert len(os.listdir(tmp_path)) == len(paths) + 1
        assert SegmentDirectory([tmp_path]).span().last_seq == last

        whole = paths[1].read_bytes()
        paths[1].write_bytes(whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:])
        status, out, error = await kilim(*verb)
        first = int(paths[1].name[:20])
        assert (status, out) == (1, "")
        assert error == (
            f"error: log broken at seq {first}: {paths[1]}: its digest does not match: its bytes were changed; "
            "delete that file and export again\n"
        )
        paths[1].unlink()
        assert (await kilim(*verb))[0] == 0
        assert paths[1].read_bytes() == whole

        status, _, error = await kilim("log", "export", str(tmp_path / "gap"), "--to", "3", *verb[3:])
        assert status == 0
        status, _, error = await kilim("log", "export", str(tmp_path / "gap"), "--from", "8", *verb[3:])
        assert status == 1 and f"with 8 to {last} there would be a gap in it" in error
    await client.close()


async def test_another_log_is_not_continued(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    other = encode_commit(1, bytes(32), [b"one", b"two"])
    list(write_segments(tmp_path, [other]))
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05) as r:
        await shop(r)
        status, _, error = await kilim("log", "export", str(tmp_path), "--server", r.address)
        assert status == 1 and error.startswith("error: log broken at seq 2: has chain")
        status, _, error = await kilim("log", "verify", "--segments", str(tmp_path), "--server", r.address)
        assert status == 1
        assert error == (
            f"error: log broken at seq 1: etcd and {tmp_path}/{1:020}-{2:020}.segment hold different events\n"
        )


async def test_verify_names_what_is_wrong_in_etcd(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    client = EtcdClient(etcd.endpoints)
    log, store, keys = EventLog(client, cluster), SnapshotStore(client, cluster), Keys(cluster)
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05) as r:
        await shop(r)
        for seq in (5, 9):
            await publish(log, store, seq)
        await r.until(lambda status: len(status.log.snapshots) == 2)
        commits = [commit async for commit in log.read(1)]
        assert (await kilim("log", "export", str(tmp_path), "--server", r.address))[0] == 0
        sources = (["--server", r.address], _direct(etcd, cluster))

        await _flip(client, keys.part(5, 0))
        for source in sources:
            status, _, error = await kilim("log", "verify", *source)
            assert status == 1 and "snapshot 5 broken: " in error, error
        await _flip(client, keys.part(5, 0))

        forged = await store.manifest(9)
        assert forged is not None
        await store.delete(9)
        await store.publish(9, forged.chain, bytes(32), 0, [])
        status, _, error = await kilim("log", "verify", *sources[1])
        assert status == 1 and "snapshot 9 broken: its state digest is" in error
        await store.delete(9)

        broken = commits[6]
        await _flip(client, keys.commit(broken.first_seq), 80)
        for source in sources:
            status, _, error = await kilim("log", "verify", *source)
            assert status == 1 and f"log broken at seq {broken.first_seq}: " in error, error
        await client.put(keys.commit(broken.first_seq), broken.encoded)

        await client.delete(keys.commit(broken.first_seq))
        for source in sources:
            status, _, error = await kilim("log", "verify", *source)
            assert status == 1 and f"at seq {broken.first_seq}: " in error, error
        rewritten = encode_commit(broken.first_seq, broken.chain_before, broken.records, "another")
        await client.put(keys.commit(broken.first_seq), rewritten.encoded)
        status, _, error = await kilim("log", "verify", "--segments", str(tmp_path), *sources[1])
        assert status == 1
        assert f"at seq {broken.first_seq}: etcd " in error and "hold the same events in different bytes" in error
        await client.put(keys.commit(broken.first_seq), broken.encoded)
        for source in sources:
            assert (await kilim("log", "verify", "--segments", str(tmp_path), *source))[0] == 0
    await client.close()


async def test_verify_says_all_that_is_wrong(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    client = EtcdClient(etcd.endpoints)
    async with replica(etcd.endpoints, cluster, keep_every_s=0.05) as r:
        await shop(r)
        commits = [commit async for commit in EventLog(client, cluster).read(1)]
        paths = await asyncio.to_thread(lambda: list(write_segments(tmp_path, commits, 400)))
        for path in paths[1:3]:
            whole = path.read_bytes()
            path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        verb = ["log", "verify", "--segments", str(tmp_path)]
        status, out, error = await kilim(*verb)
        assert (status, out) == (1, "")
        lines = error.splitlines()
        assert [str(path) in line for path, line in zip(paths[1:3], lines, strict=False)] == [True, True]
        assert lines[-1] == f"error: 2 things are wrong, the first at event {int(paths[1].name[:20])}"
        status, out, _ = await kilim(*verb, "-o", "json", "--server", r.address)
        said = json.loads(out)
        assert (status, said["ok"], len(said["problems"])) == (1, False, 2)
    await client.close()


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        (["export"], "Missing argument 'DIR'"),
        (["export", "/tmp/x", "--from", "5", "--to", "4"], "--to: must be at least --from (5)"),
        (["verify", "--segments", "/nowhere"], "'/nowhere' does not exist"),
        (["restore", "--etcd-endpoints", "http://127.0.0.1:1"], "Missing option '--segments'"),
        (["restore", "--segments", "/tmp"], "Missing option '--etcd-endpoints'"),
    ],
)
async def test_bad_usage(verb: list[str], words: str) -> None:
    status, out, error = await kilim("log", *verb)
    assert (status, out) == (2, "") and words in error and error.count("\n") == 1


async def test_a_directory_without_segments(tmp_path: Path) -> None:
    for verb in (["verify"], ["restore", "--etcd-endpoints", "http://127.0.0.1:1"]):
        status, _, error = await kilim("log", *verb, "--segments", str(tmp_path))
        assert (status, error) == (1, f"error: no segments in {tmp_path}\n")
