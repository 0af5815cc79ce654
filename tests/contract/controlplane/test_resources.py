"""Objects over the wire: applied, read, refused, deleted, tried."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest

from kilim.controlplane import packing
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.v1 import controlplane_pb2 as api
from tests.contract.controlplane.harness import namespace, pod, policy, replica

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_apply_get_list_delete(etcd: EmbeddedEtcd, cluster: str) -> None:
    objects = (namespace("shop", team="a"), pod("db", app="db"), policy("p", "203.0.113.0/24"))
    async with replica(etcd.endpoints, cluster) as r:
        answer = await r.apply(*objects)
        assert [each.action for each in answer.results] == ["created"] * 3
        assert answer.seq == 4
        again = await r.apply(*objects)
        assert ([each.action for each in again.results], again.seq) == (["unchanged"] * 3, 4)
        got = await r.resources.Get(api.GetRequest(kind="NetworkPolicy", namespace="shop", name="p"))
        assert json.loads(got.json) == objects[2]
        await r.register_node("node1", "192.0.2.1")
        await r.register_endpoint("node1", "db", "10.244.0.3", 1)
        kinds = {"NetworkPolicy": 1, "Namespace": 1, "Pod": 1, "Node": 1, "Endpoint": 1, "Identity": 12, "Setting": 0}
        for kind, count in kinds.items():
            listed = await r.resources.List(api.ListRequest(kind=kind))
            assert (kind, len(listed.items)) == (kind, count)
            for item in listed.items:
                shown = json.loads(item.json)
                assert (shown["kind"], shown["metadata"]["name"]) == (kind, item.name)
                request = api.GetRequest(kind=kind, namespace=item.namespace, name=item.name)
                assert await r.resources.Get(request) == item
        assert len((await r.resources.List(api.ListRequest(kind="Pod", namespace="other"))).items) == 0
        refs = [api.ResourceRef(kind="NetworkPolicy", namespace="shop", name="p")]
        preview = await r.resources.Delete(api.DeleteRequest(refs=refs, dry_run=True))
        assert [each.action for each in preview.results] == ["deleted"]
        gone = await r.resources.Delete(api.DeleteRequest(refs=refs))
        assert gone.seq == preview.seq + 2
        ignored = await r.resources.Delete(api.DeleteRequest(refs=refs, ignore_not_found=True))
        assert ([each.action for each in ignored.results], ignored.seq) == (["not found"], gone.seq)


async def test_dry_run_changes_nothing(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        answer = await r.apply(namespace("shop"), policy("p", "10.0.0.0/8"), dry_run=True)
        assert ([each.action for each in answer.results], answer.seq) == (["created", "created"], 0)
        assert (await r.status()).seq == 0


async def test_what_is_refused_names_source_field_and_rule_and_leaves_nothing(etcd: EmbeddedEtcd, cluster: str) -> None:
    cases = [
        (policy("p", "10.0.0.0/33"), "t.yaml: document 2: spec.ingress[0].from[0].ipBlock.cidr: Invalid value"),
        (
            {"apiVersion": "v1", "kind": "Gateway", "metadata": {"name": "x"}},
            't.yaml: document 2: kind: "Gateway" is not',
        ),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": ""}}, "t.yaml: document 2: metadata.name: Required"),
    ]
    async with replica(etcd.endpoints, cluster) as r:
        for bad, words in cases:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await r.apply(namespace("shop"), bad)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert (caught.value.details() or "").startswith(words)
            assert "\n" not in (caught.value.details() or "")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await r.resources.Apply(api.ApplyRequest(manifests=[api.Manifest(json="{", source="f.yaml")]))
        assert (caught.value.details() or "").startswith("f.yaml: manifest: is no JSON")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await r.resources.Apply(api.ApplyRequest(manifests=[api.Manifest(json="{}")] * 1001))
        assert caught.value.details() == "manifests: 1001 are too many, at most 1000 in one call"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await r.resources.Get(api.GetRequest(kind="Pod", namespace="a", name="b"))
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "Pod a/b: not found")
        assert (await r.status()).seq == 0


async def test_a_change_of_a_large_namespace_takes_several_commits(
    etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "COMMIT_RECORDS_MAX", 50)
    async with replica(etcd.endpoints, cluster) as r:
        await r.register_node("node1", "192.0.2.1")
        count = 120
        await asyncio.gather(*(r.register_endpoint("node1", f"p{n}", f"10.244.0.{n}", n) for n in range(1, count + 1)))
        answer = await r.apply(namespace("shop", team="x"))
        assert answer.seq == 1 + 1 + count + 1 + count + 1
        listed = await r.resources.List(api.ListRequest(kind="Endpoint"))
        assert {json.loads(item.json)["spec"]["identity"] for item in listed.items} == {257}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await r.apply(*(namespace(f"n{n}") for n in range(51)))
        assert (caught.value.details() or "").startswith("the change is too large to happen at once (51 events")
        assert (await r.status()).seq == answer.seq


async def test_a_policy_that_no_map_could_hold_is_refused_and_leaves_nothing(etcd: EmbeddedEtcd, cluster: str) -> None:
    ports = [{"port": port} for port in range(1000, 6000, 2)]
    wide = policy("wide")
    wide["spec"] = {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}], "ports": ports}]}
    async with replica(etcd.endpoints, cluster) as r:
        await r.register_node("node1", "192.0.2.1", "10.244.0.0/24")
        for number in range(1, 17):
            await r.register_endpoint("node1", f"p{number}", f"10.244.0.{number + 1}", number, app=f"a{number}")
        seq = (await r.status()).seq
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await r.apply(wide)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.details() == (
            "table policy of node node1 holds 500000 rows, at least 520013 would be needed"
        )
        assert (await r.status()).seq == seq
