"""Services and slices through the whole command line: a policy follows them, and the log says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kilim.kvstore.embedded import EmbeddedEtcd
from tests.contract.cli.world import kilim
from tests.contract.controlplane.harness import Running, namespace, replica

pytestmark = pytest.mark.asyncio(loop_scope="session")

OUTSIDE = ("198.51.100.7", "198.51.100.8")
FLOW = ("--from", "shop/web", "--port", "443", "--to")


def service() -> dict[str, Any]:
    metadata = {"name": "pay", "namespace": "shop", "uid": "u", "resourceVersion": "7"}
    spec = {"ports": [{"port": 443, "targetPort": 8443}], "clusterIP": "10.96.0.7"}
    status: dict[str, Any] = {"loadBalancer": {}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec, "status": status}


def part(*ips: str) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "pay-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "pay"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip]} for ip in ips],
        "ports": [{"port": 8443}],
    }


def policy() -> dict[str, Any]:
    egress = [{"toServices": [{"k8sService": {"serviceName": "pay", "namespace": "shop"}}]}]
    metadata = {"name": "web", "namespace": "shop"}
    spec = {"endpointSelector": {}, "egress": egress}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": metadata, "spec": spec}


async def shop(r: Running) -> None:
    """Ends with the slice moved from the first address to the second."""
    await r.register_node("node1", "192.0.2.1")
    await r.apply(namespace("shop"))
    await r.register_endpoint("node1", "web", "10.244.0.2", 1, app="web")
    for each in (policy(), service(), part(OUTSIDE[0]), part(OUTSIDE[1])):
        await r.apply(each)


async def test_a_verdict_follows_the_slice_and_history_names_it(
    etcd: EmbeddedEtcd, cluster: str, tmp_path: Path
) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        await shop(r)
        server = ["--server", r.address]
        for ip, verdict in zip(OUTSIDE, ("denied", "allowed"), strict=True):
            found = json.loads((await kilim("why", *FLOW, ip, "-o", "json", *server))[1])
            assert found["verdict"] == verdict, ip
            turned = json.loads((await kilim("why", *FLOW, ip, "--bisect", "-o", "json", *server))[1])
            last = turned["event"]
            assert (turned["after"].partition(":")[0], last["event"]) == (verdict, "EndpointSliceReplaced"), ip
            assert {f"-  - {OUTSIDE[0]}", f"+  - {OUTSIDE[1]}"} <= set(turned["change"])
        lives = {
            "svc/shop/pay": ["ServiceReplaced"],
            "endpointslice/shop/pay-1": [
                "IdentityAllocated", "EndpointSliceReplaced",
                "IdentityAllocated", "EndpointSliceReplaced", "IdentityReleased",
            ],
        }  # fmt: skip
        for name, events in lives.items():
            lines = (await kilim("log", "show", "--object", name, "-o", "json", *server))[1].splitlines()
            assert [json.loads(line)["event"] for line in lines] == events, name
        changed = (await kilim("log", "show", "--object", "endpointslice/shop/pay-1", "-o", "wide", *server))[1]
        assert f'endpoints[0].addresses: ["{OUTSIDE[0]}"] -> ["{OUTSIDE[1]}"]' in changed

        file = tmp_path / "slice.json"
        file.write_text(json.dumps(part(*OUTSIDE)))
        status, stdout, _ = await kilim("simulate", "-f", str(file), *server)
        assert status == 0 and stdout.splitlines()[0] == "endpointslice.discovery.k8s.io/pay-1 configured (simulated)"
        assert stdout.splitlines()[1].startswith(f"shop/web -> {OUTSIDE[0]}/32 any port: denied -> allowed"), stdout


async def test_replay_from_segments_and_from_a_copy_is_the_same(
    etcd: EmbeddedEtcd, cluster: str, tmp_path: Path
) -> None:
    directory = str(tmp_path / "segments")
    async with replica(etcd.endpoints, cluster) as r:
        await shop(r)
        server = ["--server", r.address]
        assert (await kilim("log", "export", directory, *server))[0] == 0
        assert (await kilim("log", "verify", "--segments", directory))[0] == 0
        replay = ("replay", "--node", "node1", "-o", "json")
        assert await kilim(*replay, "--segments", directory) == await kilim(*replay, *server)
        rows = json.loads((await kilim(*replay, *server))[1])["tables"]["ipcache"]
        assert OUTSIDE[1] in str(rows) and OUTSIDE[0] not in str(rows)
        digest = (await r.status()).state_digest
    copy = cluster + "-copy"
    to_copy = ["--etcd-endpoints", ",".join(etcd.endpoints), "--cluster", copy]
    status, stdout, stderr = await kilim("log", "restore", "--segments", directory, *to_copy)
    assert status == 0, (stdout, stderr)
    async with replica(etcd.endpoints, copy) as again:
        assert (await again.status()).state_digest == digest
        listed = await kilim("get", "svc,endpointslices", "-n", "shop", "--server", again.address)
        assert listed[1].splitlines() == [
            "NAME          TYPE        CLUSTER-IP   EXTERNAL-IP   PORT(S)",
            "service/pay   ClusterIP   10.96.0.7    <none>        443/TCP",
            "",
            "NAME                                   ADDRESSTYPE   PORTS   ENDPOINTS",
            "endpointslice.discovery.k8s.io/pay-1   IPv4          8443    198.51.100.8",
        ]


async def test_dry_runs_and_deletion(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    items = [service(), part(OUTSIDE[0])]
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    names = ["service/pay", "endpointslice.discovery.k8s.io/pay-1"]
    here = await kilim("apply", "-f", str(file), "--dry-run=client")
    assert [line.split()[:2] for line in here[1].splitlines()] == [[name, "created"] for name in names]
    async with replica(etcd.endpoints, cluster) as r:
        server = ["--server", r.address]
        there = await kilim("apply", "-f", str(file), "--dry-run=server", *server)
        assert [line.split()[:2] for line in there[1].splitlines()] == [[name, "created"] for name in names]
        assert (await r.status()).seq == 0
        for action in ("created", "unchanged"):
            done = await kilim("apply", "-f", str(file), *server)
            assert [line.split()[:2] for line in done[1].splitlines()] == [[name, action] for name in names]
        words = await kilim("describe", "svc/pay", "-n", "shop", *server)
        assert "Cluster IPs:  10.96.0.7" in words[1] and "loadBalancer" not in words[1] and "uid" not in words[1]
        gone = await kilim("delete", "-f", str(file), *server)
        assert [line.split()[:2] for line in gone[1].splitlines()] == [[name, "deleted"] for name in names]
        again = await kilim("delete", "svc", "pay", "-n", "shop", *server)
        assert (again[0], again[2]) == (1, "error: Service shop/pay: not found\n")
        assert (await kilim("get", "all", "-n", "shop", *server))[2] == "No resources found in shop namespace.\n"
