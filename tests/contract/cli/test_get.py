"""`kilim get` of several kinds at once, against a real replica."""

from __future__ import annotations

import json

import pytest

from kilim.kvstore.embedded import EmbeddedEtcd
from tests.contract.cli.world import kilim, shop
from tests.contract.controlplane.harness import replica

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_several_kinds_are_tables_one_after_the_other(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        await shop(r)
        server = ["--server", r.address]
        status, stdout, _ = await kilim("get", "netpol,cnp,ns", "-A", *server)
        parts = stdout.split("\n\n")
        assert status == 0 and [part.split()[0] for part in parts] == ["NAMESPACE", "NAME"]
        data = json.loads((await kilim("get", "ns,netpol", "-A", "-o", "json", *server))[1])
        assert [item["kind"] for item in data["items"]] == ["Namespace", "NetworkPolicy", "NetworkPolicy"]
        names = (await kilim("get", "ns,netpol", "-A", "-o", "name", *server))[1].splitlines()
        assert len(names) == 3 and all("/" in name for name in names)
