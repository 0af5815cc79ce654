"""The health endpoint of a node: the reserved identity, one per node, out of reach of labels and policies."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kilim.controlplane.api.condition import unreached
from kilim.controlplane.decide.command import EndpointRegistered, RegisterEndpoint, RemoveEndpoint
from kilim.controlplane.decide.refusal import Code
from kilim.model.address import parse_ip
from kilim.model.desired import desired_tables
from kilim.model.node_tables import NodeTables
from kilim.model.nouns import HEALTH_NAMESPACE, Endpoint, Namespace, Pod, endpoint_to_pb
from kilim.model.reach import Reach
from kilim.model.resolve import resolve
from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import events_pb2 as pb
from tests.pure.controlplane.worlds import World, apply, endpoint, two_nodes
from tests.pure.model.cluster import Cluster
from tests.pure.model.test_enforcement_modes import cilium

KEY = f"{HEALTH_NAMESPACE}/node1"


@pytest.fixture
def world() -> World:
    return two_nodes()


def health(node: str = "node1", ip: str = "10.244.0.254", number: int = 9) -> RegisterEndpoint:
    return RegisterEndpoint(node, HEALTH_NAMESPACE, node, "health", ip, number, health=True)


def test_it_has_the_reserved_identity(world: World) -> None:
    assert world.do(health()) == EndpointRegistered(4)
    assert world.bodies == ["endpoint_added"]
    assert world.do(health()) == EndpointRegistered(4)
    assert world.bodies == []
    assert world.do(health("node2", "10.244.1.254")) == EndpointRegistered(4)
    assert {key: each.identity for key, each in world.state.endpoints.items()} == {
        KEY: 4,
        f"{HEALTH_NAMESPACE}/node2": 4,
    }


def test_a_node_has_one(world: World) -> None:
    world.do(health())
    world.do(replace(health(ip="10.244.0.253"), container_id="later"))
    assert world.bodies == ["endpoint_updated"]
    assert len(world.state.endpoints) == 1


def test_labels_of_its_namespace_or_a_pod_of_its_name_do_not_change_it(world: World) -> None:
    world.do(health())
    world.do(apply(Namespace(HEALTH_NAMESPACE, (("team", "x"),))))
    assert world.bodies == ["namespace_labelled"]
    world.do(apply(Pod(HEALTH_NAMESPACE, "node1", (("app", "x"),))))
    assert world.bodies == ["pod_replaced"]
    assert world.state.endpoints[KEY].labels == ()


def test_it_goes_like_any_other(world: World) -> None:
    world.do(health())
    world.do(RemoveEndpoint("node1", HEALTH_NAMESPACE, "node1", "health"))
    assert world.bodies == ["endpoint_removed"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (replace(health(), name="node2"), f"health: must be {KEY}"),
        (replace(health(), namespace="shop"), f"health: must be {KEY}"),
        (replace(health(), labels=(("app", "x"),)), "health: a health endpoint has neither labels nor"),
        (replace(endpoint(), namespace=HEALTH_NAMESPACE), f"namespace: {HEALTH_NAMESPACE} is for the health endpoints"),
    ],
)
def test_refused(world: World, command: RegisterEndpoint, words: str) -> None:
    refusal = world.refusal(command)
    assert refusal.code is Code.INVALID
    assert words in refusal.message


@pytest.mark.parametrize("mode", ["default", "always", "never"])
def test_no_policy_selects_it(mode: str) -> None:
    cluster = Cluster()
    cluster.node("node1", "192.0.2.1")
    cluster.happen(
        endpoint_added=pb.EndpointAdded(
            endpoint=endpoint_to_pb(Endpoint(HEALTH_NAMESPACE, "node1", "node1", 9, parse_ip("10.61.1.254"), 4))
        )
    )
    incremental = NodeTables("node1")
    incremental.rebuild(cluster.state)
    before = len(cluster.changes)
    cluster.set("enable-policy", mode)
    cilium(cluster, {"endpointSelector": {}, "ingress": [{}], "egressDeny": [{"toEntities": ["all"]}]})
    assert resolve(cluster.state, 4)[:2] == (0, {})
    assert Reach(cluster.state).rows(4) == (0, {})
    tables = desired_tables(cluster.state, "node1")
    assert tables.subjects == {4: 0}
    assert tables.policy == {}
    incremental.update(cluster.state, cluster.changes[before:])
    assert incremental.tables == tables


def test_status_has_a_line_for_each_node_that_is_not_reached() -> None:
    health = api.ConnectivitySummary(
        nodes=9,
        reachable=6,
        unreachable=[
            api.UnreachablePath(node="b", path="host ICMP", ip="192.0.2.2", error="no answer in 5 s", for_ms=3_500),
            api.UnreachablePath(node="b", path="host HTTP", ip="192.0.2.2", error="refused", for_ms=9_900),
            api.UnreachablePath(node="c", path="endpoint ICMP", ip="fd00::9", error="no answer in 5 s", for_ms=100),
        ],
    )
    assert unreached(health) == [
        "cannot reach b for 9 s: host ICMP (192.0.2.2), host HTTP (192.0.2.2): no answer in 5 s",
        "cannot reach c for 0 s: endpoint ICMP (fd00::9): no answer in 5 s",
    ]
    health.more = 4
    assert unreached(health)[-1] == "cannot reach others on 4 more paths"
    assert unreached(api.ConnectivitySummary(nodes=1, reachable=1)) == []
