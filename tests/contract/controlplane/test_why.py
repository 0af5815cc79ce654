"""`kilim why` and `kilim simulate` as users run them: processes that ask a real replica for its history."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kilim.kvstore.embedded import EmbeddedEtcd
from tests.contract.controlplane.harness import Running, replica
from tests.contract.controlplane.test_wait import kilim

pytestmark = pytest.mark.asyncio(loop_scope="session")
FLOW = ("--from", "shop/web", "--to", "shop/db", "--port", "5432")


def policy(name: str, *apps: str) -> dict[str, Any]:
    peers = [{"podSelector": {"matchLabels": {"app": app}}} for app in apps]
    spec = {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"]}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {**spec, "ingress": [{"from": peers, "ports": [{"port": 5432}]}]},
    }


async def fill(r: Running) -> None:
    """Ends at event 9: the policy `db` let web in at event 7, and no longer does since 8; 9 is nothing to web."""
    await r.register_node("n1", "192.0.2.1", "10.0.1.0/24")
    await r.register_node("n2", "192.0.2.2", "10.0.2.0/24")
    await r.register_endpoint("n1", "web", "10.0.1.2", 1, app="web")
    await r.register_endpoint("n2", "db", "10.0.2.2", 1, app="db")
    for apps in (("web",), ("api",), ("api", "cron")):
        await r.apply(policy("db", *apps))


async def test_why_and_simulate_ask_a_replica(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        await fill(r)
        denied = json.loads((await kilim(r, "why", *FLOW, "-o", "json")).stdout)
        assert (denied["verdict"], denied["reason"], denied["seq"]) == ("denied", "POLICY_DENIED", 9)
        (closing,) = denied["nodes"][1]["isolatedBy"]
        assert (closing["name"], closing["event"]["seq"], closing["event"]["actor"]) == ("db", 9, "test")

        allowed = json.loads((await kilim(r, "why", *FLOW, "--at", "7", "-o", "json")).stdout)
        assert (allowed["verdict"], allowed["nodes"][1]["policyRows"][0]["event"]["seq"]) == ("allowed", 7)

        changed = json.loads((await kilim(r, "why", *FLOW, "--bisect", "-o", "json")).stdout)
        assert (changed["before"], changed["after"]) == ("allowed", "denied: POLICY_DENIED, ingress")
        assert changed["event"]["seq"] == 8

        direct = ("why", *FLOW, "--etcd-endpoints", ",".join(etcd.endpoints), "--cluster", cluster)
        assert (await kilim(r, *direct, server=False)).stdout == (await kilim(r, "why", *FLOW)).stdout

        tried = await kilim(r, "simulate", "-f", "-", "--exit-code", stdin=policy("db", "web"))
        assert (tried.exit_code, tried.stdout.splitlines()) == (
            1,
            [
                "networkpolicy.networking.k8s.io/db configured (simulated)",
                "shop/web -> shop/db TCP 5432: denied -> allowed (NetworkPolicy shop/db ingress[0])",
                "1 verdict would change",
            ],
        )
        assert (await r.status()).seq == 9


async def test_policy_and_endpoint_ask_a_replica(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        await fill(r)
        pair = ("policy", "trace", "--from", "shop/web", "--to", "shop/db", "--port", "5432")
        denied = await kilim(r, *pair)
        assert denied.stdout.splitlines()[0] == "denied: POLICY_DENIED, ingress"
        allowed = json.loads((await kilim(r, *pair, "--at", "7", "-o", "json")).stdout)
        assert (allowed["verdict"], allowed["seq"]) == ("allowed", 7)

        (got,) = json.loads((await kilim(r, "policy", "get", "-o", "json")).stdout)
        assert (got["name"], got["rowsByNode"], got["event"]["seq"], got["event"]["actor"]) == ("db", {}, 9, "test")
        (then,) = json.loads((await kilim(r, "policy", "get", "--at", "7", "-o", "json")).stdout)
        assert (then["endpoints"], then["rowsByNode"], then["event"]["seq"]) == (1, {"n2": 1}, 7)

        shown = json.loads((await kilim(r, "endpoint", "get", "shop/db", "--at", "7", "-o", "json")).stdout)
        row = next(each for each in shown["policy"] if each["origins"][0]["section"])
        assert (row["ports"], row["action"], row["event"]["seq"]) == ({"first": 5432, "last": 5432}, "allow", 7)
        direct = ("policy", "selectors", "--etcd-endpoints", ",".join(etcd.endpoints), "--cluster", cluster)
        assert (await kilim(r, *direct, server=False)).stdout == (await kilim(r, "policy", "selectors")).stdout
