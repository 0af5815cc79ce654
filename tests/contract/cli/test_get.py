"""`kilim get` of several kinds at once, against a real replica."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.model.resource import KINDS
from tests.contract.cli.world import allow, kilim, shop
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


async def test_all_is_every_kind_and_names_say_which(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        await shop(r)
        server = ["--server", r.address]
        _, own, _ = await kilim("get", "all", "-n", "shop", *server)
        assert {line.split()[0] for line in own.splitlines() if "/" in line.partition(" ")[0]} == {
            "networkpolicy.networking.k8s.io/closed", "networkpolicy.networking.k8s.io/db",
            "endpoint.kilim.io/web", "endpoint.kilim.io/db",
        }  # fmt: skip
        data = json.loads((await kilim("get", "all", "-A", "-o", "json", *server))[1])
        assert {item["kind"] for item in data["items"]} == {"NetworkPolicy", "Namespace", "Node", "Endpoint"}
        status, stdout, stderr = await kilim("get", "all", *server)
        assert (status, stdout, stderr) == (0, "", "No resources found in default namespace.\n")


DENIED = {"toCIDRSet": [{"cidr": "192.0.2.0/24", "except": ["192.0.2.0/30"]}]}


def _cilium(kind: str, **metadata: str) -> dict[str, Any]:
    rule = {"fromEndpoints": [{"matchLabels": {"app": "web"}}], "toPorts": [{"ports": [{"port": "80"}]}]}
    spec = {"endpointSelector": {"matchLabels": {"app": "db"}}, "ingress": [rule], "egressDeny": [DENIED]}
    return {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": {"name": "c", **metadata}, "spec": spec}


MANIFESTS: tuple[dict[str, Any], ...] = (
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "no"}}},
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web", "on": "1"}},
        "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 80}]}]},
    },
    allow("db", {"app": "db"}, {"app": "web"}, 80)
    | {"metadata": {"name": "db", "namespace": "shop", "annotations": {"note": "1: 2\n- x"}}},
    {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "cnp"},
        "spec": {
            "tier": "Admin",
            "priority": 7,
            "subject": {"namespaces": {}},
            "ingress": [{"action": "Deny", "from": [{"namespaces": {"matchLabels": {"a": "b"}}}]}],
        },
    },
    _cilium("CiliumNetworkPolicy", namespace="shop"),
    _cilium("CiliumClusterwideNetworkPolicy"),
    {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumCIDRGroup",
        "metadata": {"name": "g"},
        "spec": {"externalCIDRs": ["192.0.2.0/24"]},
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "db", "namespace": "shop", "labels": {"app": "db"}},
        "spec": {"selector": {"app": "db"}, "ports": [{"port": 5432, "targetPort": "sql"}], "clusterIP": "10.96.0.9"},
    },
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 5432, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.0.9"], "conditions": {"ready": True}, "nodeName": "n1"}],
    },
)


async def test_what_get_prints_can_be_applied_again(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    assert {each["kind"] for each in MANIFESTS} == set(KINDS)
    file = tmp_path / "f.yaml"
    async with replica(etcd.endpoints, cluster) as r:
        server = ["--server", r.address]
        for each in MANIFESTS:
            file.write_text(json.dumps(each))
            assert (await kilim("apply", "-f", str(file), *server))[0] == 0, each
        head = json.loads((await kilim("apply", "-f", str(file), "-o", "json", *server))[1])["seq"]
        for each in MANIFESTS:
            for form in ("yaml", "json"):
                where = ["-n", "shop"] if "namespace" in each["metadata"] else []
                shown = await kilim("get", each["kind"], each["metadata"]["name"], "-o", form, *where, *server)
                file.write_text(shown[1])
                status, stdout, stderr = await kilim("apply", "-f", str(file), *server)
                assert (status, stdout.split()[1:], stderr) == (0, ["unchanged"], ""), each
        file.write_text(
            (
                await kilim(
                    "get", "netpol,cnp,ccnp,ccg,po,ns,clusternetpol,svc,endpointslices", "-A", "-o", "yaml", *server
                )
            )[1]
        )
        status, stdout, _ = await kilim("apply", "-f", str(file), *server)
        assert status == 0 and [line.split()[1] for line in stdout.splitlines()] == ["unchanged"] * len(MANIFESTS)
        assert json.loads((await kilim("apply", "-f", str(file), "-o", "json", *server))[1])["seq"] == head
