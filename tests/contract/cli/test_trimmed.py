"""History through a replica whose log has been trimmed: from the first event held on, and with segments all of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.v1 import controlplane_pb2 as api
from tests.contract.cli.world import kilim, shop
from tests.contract.controlplane.harness import PATIENCE_S, Running, replica

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def trimmed(r: Running) -> int:
    """The first event held, after a history of some events and a compaction."""
    await shop(r)
    for name in ("snapshot-every-events", "log-retention-events"):
        request = api.ChangeSettingRequest(name=name, value="10", actor="test")
        await r.cluster.ChangeSetting(request, timeout=PATIENCE_S)
    await r.fill(40)
    for _ in range(2):  # the newest two snapshots are kept, and all events after the older one
        await r.log.Compact(api.CompactRequest(actor="test"), timeout=PATIENCE_S)
        await r.fill(20, "more")
    status = await r.status()
    assert status.log.first_seq > 1
    return int(status.log.first_seq)


async def test_what_is_held_is_shown_and_what_is_not_is_said(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        first = await trimmed(r)
        server = ["--server", r.address]
        status, stdout, stderr = await kilim("log", "show", "-o", "json", *server)
        entries = [json.loads(line) for line in stdout.splitlines()]
        assert (status, stderr, entries[0]["seq"]) == (0, "", first)
        assert entries[0]["changes"] is not None
        refused = f"error: --from: event {first - 1} is no longer held, the first is event {first}\n"
        assert await kilim("log", "show", "--from", str(first - 1), *server) == (1, "", refused)
        time = "2020-01-01T00:00:00Z"
        refused = f"error: --from: what was at {time} is no longer held, the first is event {first}\n"
        assert await kilim("log", "show", "--from", time, *server) == (1, "", refused)
        assert (await kilim("log", "show", "-o", "json", "--since", "1h", *server))[1] == stdout
        status, stdout, stderr = await kilim("replay", "--node", "node2", "--to", "3", *server)
        assert (status, stdout) == (1, "") and f"begins at seq {first}" in stderr
        status, stdout, stderr = await kilim("replay", "--node", "node2", "--to", str(first), *server)
        assert (status, stderr) == (0, "") and f"\nEvent          {first}\n" in stdout
        status, stdout, stderr = await kilim("log", "tail", "-n", "999", "-o", "json", *server)
        assert (status, json.loads(stdout.splitlines()[0])["seq"]) == (0, first)
