"""Pods of different nodes without a tunnel, in both families; and a cluster that goes over to it, and back."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pyroute2
import pytest

from kilim.agent.netlink.node import TUNNEL
from kilim.lab import api, faults, topology
from kilim.lab.client import ControlPlane
from kilim.lab.cluster import ClusterSpec, bring_up, take_down
from kilim.lab.commands import replica_targets
from kilim.lab.netns import in_netns
from kilim.lab.topology import External, Lab, Port, default_node_plans
from kilim.v1 import controlplane_pb2 as pb
from tests.lab.test_membership import Talk, talks

NATIVE = ("--routing-mode=native", "--auto-direct-node-routes")
PATIENCE_S = 30.0
STALL_S = 20.0  # retransmissions double their distance, so a connection finds out late that its way is whole again


@asynccontextmanager
async def cluster(name: str, options: tuple[str, ...]) -> AsyncIterator[tuple[Lab, ControlPlane, dict[str, Any]]]:
    """Nobody but the agents tells the underlay where pods are."""
    outside = External("outside", "198.51.100.9", ports=(Port(80, "TCP"),), ipv6="2001:db8:51::9")
    spec = ClusterSpec(name, default_node_plans(2), 1, 1, (outside,), agent_options=options, routed_pods=False)
    try:
        lab = await bring_up(spec)
        pods = {
            pod: await api.add_pod(name, f"shop/{pod}", node, labels={"app": pod}, ports=["80"])
            for pod, node in (("server", "node1"), ("near", "node1"), ("far", "node2"), ("other", "node2"))
        }
        async with ControlPlane(replica_targets(lab)) as plane:
            yield lab, plane, pods
    finally:
        take_down(name)


def allow(*rules: dict[str, Any], egress: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    spec: dict[str, Any] = {"endpointSelector": {"matchLabels": {"app": "server"}}, "ingress": list(rules)}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "server", "namespace": "shop"},
        "spec": spec | ({"egress": list(egress)} if egress else {}),
    }


def pods_of(*apps: str) -> list[dict[str, Any]]:
    return [{"matchLabels": {"app": app}} for app in apps]


async def verdicts(lab: Lab, *ends: tuple[str, str]) -> list[str]:
    """Of both families, which must agree."""
    return [(await api.probe(lab.name, source, target, 80))["got"] for source, target in ends]


def devices(lab: Lab, node: str) -> set[str]:
    def read() -> set[str]:
        with pyroute2.IPRoute() as ipr:  # type: ignore[attr-defined,no-untyped-call]
            return {str(link.get_attr("IFLA_IFNAME")) for link in ipr.get_links()}

    return in_netns(lab.netns(node), read)


def has_tunnel(lab: Lab, node: str, there: bool) -> bool:
    return (TUNNEL in devices(lab, node)) is there


def has_answers(talk: Talk, count: int) -> bool:
    return talk.answers >= count


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if look():
                return
            await asyncio.sleep(0.05)


async def until_status(plane: ControlPlane, look: Callable[[pb.StatusResponse], bool]) -> pb.StatusResponse:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            status = await plane.status()
            if look(status):
                return status
            await asyncio.sleep(0.05)


async def test_policy_by_identity_without_a_tunnel(name_prefix: str) -> None:
    async with cluster(f"{name_prefix}-n", NATIVE) as (lab, plane, _):
        assert {node.routing_mode for node in (await plane.status()).nodes} == {"native"}
        assert all(TUNNEL not in devices(lab, node.name) for node in lab.nodes)
        ends = [(f"shop/{pod}", "shop/server") for pod in ("near", "far", "other")]
        everyone = [*ends, ("node:node1", "shop/server"), ("node:node2", "shop/server"), ("ext:outside", "shop/server")]
        assert await verdicts(lab, *everyone[:5]) == ["allow"] * 5
        assert await verdicts(lab, ("shop/server", "shop/far"), ("shop/server", "node:node2")) == ["allow"] * 2

        async def apply(body: dict[str, Any]) -> None:
            await plane.wait(await plane.apply([("policy", body)]))

        await apply(allow({"fromEndpoints": pods_of("far")}))
        assert await verdicts(lab, *everyone[:5]) == ["deny", "allow", "deny", "allow", "deny"]
        await apply(allow({"fromEntities": ["remote-node"]}))
        assert await verdicts(lab, *everyone[:5]) == ["deny", "deny", "deny", "allow", "allow"]
        await apply(allow({"fromEntities": ["all"]}, egress=({"toEndpoints": pods_of("far")},)))
        outward = [("shop/server", end) for end in ("shop/far", "shop/other", "shop/near", "node:node1", "node:node2")]
        assert await verdicts(lab, *outward) == ["allow", "deny", "deny", "deny", "deny"]
        await apply(allow({"fromEntities": ["all"]}, egress=({"toEntities": ["host", "remote-node"]},)))
        assert await verdicts(lab, *outward) == ["deny", "deny", "deny", "allow", "allow"]


def with_options(lab: Lab, options: tuple[str, ...]) -> Lab:
    changed = dataclasses.replace(lab, agent_options=options)
    topology.save_lab(changed)
    return changed


async def test_a_cluster_goes_over_to_native_routing_and_back(
    name_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Node after node. While modes differ status says so, and connections between the two wait; none breaks."""
    monkeypatch.setattr("tests.lab.test_membership.PATIENCE_S", STALL_S)
    async with cluster(f"{name_prefix}-w", ()) as (lab, plane, pods):
        async with talks(pods["server"], [pods["near"], pods["far"]]) as (near, far):
            for options, mode in ((NATIVE, "native"), ((), "tunnel")):
                lab = with_options(lab, options)
                faults.restart(lab, "node1")
                status = await until_status(plane, lambda s: any("routing-mode" in line for line in s.problems))
                assert not status.ok
                faults.restart(lab, "node2")
                await until_status(plane, lambda s, m=mode: {n.routing_mode for n in s.nodes} == {m})  # type: ignore[misc]
                there = mode == "tunnel"
                for node in lab.nodes:
                    await until(partial(has_tunnel, lab, node.name, there))
                await until(partial(has_answers, far, far.answers + 10))
                assert await verdicts(lab, ("shop/far", "shop/server"), ("shop/server", "shop/other")) == ["allow"] * 2
            print(f"longest wait: near {near.longest_s:.2f} s, far {far.longest_s:.2f} s")
            assert near.answers and far.answers
