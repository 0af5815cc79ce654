"""Registering and removing endpoints: addresses, numbers, labels from Pod objects, identities."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kilim.controlplane.decide.command import ConfigureEndpoint, EndpointRegistered, ReleaseIdentities, RemoveEndpoint
from kilim.controlplane.decide.decided import Decided
from kilim.controlplane.decide.refusal import Code, Refusal
from kilim.model.nouns import NamedPort, Namespace, Pod
from tests.pure.controlplane.worlds import World, apply, delete, endpoint, node, two_nodes


@pytest.fixture
def world() -> World:
    return two_nodes()


def test_identity_is_allocated_once_per_set_of_labels(world: World) -> None:
    assert world.do(endpoint("a", "10.244.0.3", 1, app="db")) == EndpointRegistered(256)
    assert world.bodies == ["identity_allocated", "endpoint_added"]
    assert world.do(endpoint("b", "10.244.0.4", 2, app="db")) == EndpointRegistered(256)
    assert world.bodies == ["endpoint_added"]
    assert world.do(endpoint("c", "10.244.1.4", 2, "node2", app="web")) == EndpointRegistered(257)
    assert world.state.identities[256].labels == (
        "k8s:app=db",
        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
        "k8s:io.cilium.k8s.policy.cluster=default",
        "k8s:io.cilium.k8s.policy.serviceaccount=default",
        "k8s:io.kubernetes.pod.namespace=shop",
    )


def test_the_same_again_is_no_event(world: World) -> None:
    world.do(endpoint(app="db"))
    assert world.do(endpoint(app="db")) == EndpointRegistered(256)
    assert world.bodies == []


def test_a_new_container_takes_the_place_of_the_old_one(world: World) -> None:
    world.do(endpoint(app="db"))
    world.do(replace(endpoint("db", "10.244.1.9", 7, "node2", app="db"), container_id="new"))
    assert world.bodies == ["endpoint_updated"]
    now = world.state.endpoints["shop/db"]
    assert (now.node, now.endpoint_id, now.container_id, now.identity) == ("node2", 7, "new", 256)
    world.do(RemoveEndpoint("node1", "shop", "db", "c-db"))
    assert world.bodies == []
    world.do(endpoint("other", "10.244.0.3", 1))


def test_removal_is_for_the_container_that_is_named(world: World) -> None:
    world.do(endpoint())
    for wrong in (("node1", "c-old"), ("node2", "c-db"), ("node2", "")):
        world.do(RemoveEndpoint(wrong[0], "shop", "db", wrong[1]))
        assert world.bodies == []
    world.do(RemoveEndpoint("node1", "shop", "db", "c-db"))
    assert world.bodies == ["endpoint_removed"]
    world.do(RemoveEndpoint("node1", "shop", "db", "c-db"))
    assert world.bodies == []
    world.do(endpoint())
    world.do(RemoveEndpoint("node1", "shop", "db"))
    assert world.bodies == ["endpoint_removed"]


def test_a_pod_object_comes_before_what_the_registration_brings(world: World) -> None:
    pod = Pod("shop", "db", (("app", "real"),), "runner", (NamedPort("sql", 5432, 6),))
    world.do(apply(pod))
    world.do(endpoint(app="claimed"))
    now = world.state.endpoints["shop/db"]
    assert (now.labels, now.service_account, now.named_ports) == (pod.labels, "runner", pod.named_ports)
    assert "k8s:app=real" in world.state.identities[now.identity].labels
    assert world.do(endpoint(app="claimed")) == EndpointRegistered(256)
    assert world.bodies == []


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (endpoint("x", "10.244.0.9", 9, "nowhere"), Code.NOT_FOUND, "no node 'nowhere'"),
        (endpoint("x", "10.244.0.9", 0), Code.INVALID, "endpoint_id"),
        (endpoint("x", "10.244.0.9", 65536), Code.INVALID, "endpoint_id"),
        (endpoint("x", "10.244.0", 9), Code.INVALID, "endpoint shop/x: ip: '10.244.0' is not an IPv4 address"),
        (endpoint("x", "10.244.1.9", 9), Code.INVALID, "must be in a pod CIDR of node node1 (10.244.0.0/24)"),
        (endpoint("x", "10.244.0.3", 9), Code.CONFLICT, "10.244.0.3 belongs to endpoint shop/db"),
        (endpoint("x", "10.244.0.9", 1), Code.CONFLICT, "1 belongs to shop/db on node node1"),
        (endpoint("X_", "10.244.0.9", 9), Code.INVALID, "endpoint shop/X_: name: "),
        (replace(endpoint("x", "10.244.0.9", 9), namespace=""), Code.INVALID, "namespace"),
        (endpoint("x", "10.244.0.9", 9, app="-bad-"), Code.INVALID, "labels"),
    ],
)
def test_refused(world: World, command: object, code: Code, words: str) -> None:
    world.do(endpoint())
    refusal = world.refusal(command)  # type: ignore[arg-type]
    assert refusal.code is code
    assert words in refusal.message


def test_a_batch_sees_what_comes_before_in_it(world: World) -> None:
    outcomes = world.decide(
        node("node3", "192.0.2.3"),
        endpoint("a", "10.244.2.3", 1, "node3", app="a"),
        endpoint("b", "10.244.2.3", 2, "node3", app="b"),
        endpoint("c", "10.244.2.4", 2, "node3", app="a"),
        endpoint("d", "10.244.2.5", 3, "node3", app="d"),
    )
    assert isinstance(outcomes[2], Refusal)
    assert [o.result for o in outcomes if isinstance(o, Decided)][1:] == [
        EndpointRegistered(256),
        EndpointRegistered(256),
        EndpointRegistered(257),
    ]
    for outcome in outcomes:
        if isinstance(outcome, Decided):
            world.happen(outcome)
    assert len(world.state.endpoints) == 3


def test_namespace_labels_are_part_of_the_identity_of_what_is_in_it(world: World) -> None:
    world.do(endpoint("a", "10.244.0.3", 1, app="a"))
    world.do(endpoint("b", "10.244.0.4", 2, app="b"))
    world.do(apply(Namespace("shop", (("team", "x"),))))
    assert world.bodies == ["identity_allocated", "endpoint_updated"] * 2 + ["namespace_labelled"]
    assert world.do(endpoint("c", "10.244.0.5", 3, app="a")) == EndpointRegistered(258)
    world.do(delete("Namespace", "shop"))
    assert world.bodies == ["endpoint_updated"] * 3 + ["namespace_removed"]
    assert world.state.endpoints["shop/a"].identity == 256


def test_a_namespace_that_says_nothing_new_changes_no_identity(world: World) -> None:
    world.do(endpoint())
    world.do(apply(Namespace("shop")))
    assert world.bodies == ["namespace_labelled"]


def test_a_pod_object_changes_its_endpoint(world: World) -> None:
    world.do(endpoint(app="a"))
    world.do(apply(Pod("shop", "db", (("app", "b"),))))
    assert world.bodies == ["pod_replaced", "identity_allocated", "endpoint_updated"]
    world.do(apply(Pod("shop", "db", (("app", "b"),), "", (NamedPort("sql", 1, 6),))))
    assert world.bodies == ["pod_replaced", "endpoint_updated"]
    world.do(delete("Pod", "db", "shop"))
    assert world.bodies == ["pod_removed"]


def test_unused_identities_go_and_used_ones_stay(world: World) -> None:
    world.do(endpoint("a", "10.244.0.3", 1, app="a"))
    world.do(endpoint("b", "10.244.0.4", 2, app="b"))
    world.do(RemoveEndpoint("node1", "shop", "a"))
    world.do(ReleaseIdentities((256, 257, 1 << 24, 9, 300)))
    assert world.bodies == ["setting_changed", "identity_released"]
    assert list(world.state.identities) == [257]
    assert world.do(endpoint("c", "10.244.0.5", 3, app="c")) == EndpointRegistered(258)


def test_identities_can_be_exhausted(world: World) -> None:
    world.view.local_numbers.last = 257
    world.do(endpoint("a", "10.244.0.3", 1, app="a"))
    world.do(endpoint("b", "10.244.0.4", 2, app="b"))
    refusal = world.refusal(endpoint("c", "10.244.0.5", 3, app="c"))
    assert refusal.code is Code.EXHAUSTED
    assert "identities 256-257 are all in use (2)" in refusal.message


def test_audit_mode_lasts_as_long_as_the_pod(world: World) -> None:
    world.do(endpoint(app="db"))
    world.do(ConfigureEndpoint("shop", "db", True))
    assert world.bodies == ["endpoint_updated"]
    world.do(ConfigureEndpoint("shop", "db", True))
    assert world.bodies == []
    world.do(replace(endpoint(app="db"), container_id="new"))
    world.do(apply(Pod("shop", "db", (("app", "real"),), "runner")))
    assert world.state.endpoints["shop/db"].policy_audit_mode, "a new container, and other labels"
    world.do(replace(endpoint("db", "10.244.1.9", 7, "node2", app="db"), container_id="moved"))
    assert not world.state.endpoints["shop/db"].policy_audit_mode, "another pod of that name"
    world.do(ConfigureEndpoint("shop", "db", True))
    world.do(RemoveEndpoint("node2", "shop", "db"))
    world.do(endpoint(app="db"))
    assert not world.state.endpoints["shop/db"].policy_audit_mode


def test_options_of_an_endpoint_that_is_not_there(world: World) -> None:
    assert world.refusal(ConfigureEndpoint("shop", "cache", True)).message == "endpoint shop/cache: not found"
