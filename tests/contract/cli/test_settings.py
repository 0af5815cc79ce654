"""`kilim setting` against a real replica: what is set, by which event, and what is refused."""

from __future__ import annotations

import json

import pytest

from kilim.kvstore.embedded import EmbeddedEtcd
from tests.contract.cli.world import kilim
from tests.contract.controlplane.harness import replica

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_what_is_set_is_listed_with_its_event_and_the_rest_with_its_default(
    etcd: EmbeddedEtcd, cluster: str
) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        await r.register_node("node1", "192.0.2.1")
        server = ["--server", r.address]
        assert (await kilim("setting", "set", "log-retention-events", "500", *server))[0] == 0
        seq = (await r.status()).seq
        assert (await kilim("setting", "set", "policy-audit-mode", "true", "--node", "node1", *server))[0] == 0
        rows = {
            (row["name"], row["node"]): row
            for row in json.loads((await kilim("setting", "list", "-o", "json", *server))[1])
        }
        assert rows["log-retention-events", None]["value"] == 500
        assert rows["log-retention-events", None]["event"]["seq"] == seq
        assert rows["policy-audit-mode", "node1"]["event"]["seq"] == seq + 1
        assert rows["policy-audit-mode", None]["event"] is None
        text = (await kilim("setting", "list", *server))[1].splitlines()
        assert text[0].split() == ["NAME", "NODE", "VALUE", "DEFAULT", "ALLOWED", "UNIT"]
        assert await kilim("setting", "get", "read-back-interval-s", *server) == (0, "30\n", "")
        assert await kilim("setting", "get", "policy-audit-mode", "--node", "node1", *server) == (0, "true\n", "")
        assert await kilim("setting", "get", "policy-audit-mode", *server) == (0, "false\n", "")


async def test_a_negative_value_is_refused_with_name_and_rule(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        status, stdout, stderr = await kilim("setting", "set", "read-back-interval-s", "-1", "--server", r.address)
        assert (status, stdout, stderr.count("\n")) == (1, "", 1)
        assert "setting read-back-interval-s: must be a number of seconds from 1 to 86400" in stderr


async def test_a_change_is_waited_for_and_unknown_names_are_refused_alike(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        server = ["--server", r.address]
        refused = await kilim("setting", "set", "nope", "1", *server)
        assert refused == await kilim("setting", "get", "nope", *server)
        assert refused[0] == 2 and refused[2].startswith('error: NAME: "nope" must be one of ')
        wrong = await kilim("setting", "set", "enable-policy", "nope", *server)
        assert wrong[0] == 1 and "enable-policy" in wrong[2]
        waited = ["setting", "set", "enable-policy", "always", "--wait", "--timeout", "100ms", *server]
        assert (await kilim(*waited))[0] == 0  # no node has to enforce it
        await r.register_node("node1", "192.0.2.1")
        status, out, error = await kilim(*waited[:3], "never", *waited[4:])
        assert status == 1 and "is never" in out and "node" in error  # node1 has no agent
        await r.register_endpoint("node1", "web", "10.244.0.2", 1, app="web")
        option = ["endpoint", "config", "shop/web", "PolicyAuditMode=Enabled", *server]
        assert (await kilim(*option, "--wait", "--timeout", "100ms"))[0] == 1
        assert (await kilim(*option))[:2] == (0, "PolicyAuditMode: Enabled\n")
