"""What has to be known to every node before a command: never the use of an identity together with its allocation."""

import pytest

from kilim.controlplane.decide.batch import Decided
from kilim.controlplane.decide.command import (
    AllocateIdentities,
    ApplyObjects,
    Command,
    DeleteObjects,
    ObjectsChanged,
    PreparePolicies,
    WithdrawMemberships,
)
from kilim.controlplane.decide.phases import NOTHING, Before, before
from kilim.model.address import parse_cidr
from kilim.model.nouns import Namespace, Pod
from tests.pure.controlplane.worlds import World, apply, delete, endpoint, node, policy

BLOCK = "10.244.0.0/24"


@pytest.fixture
def world() -> World:
    world = World()
    world.do(node())
    world.do(node("node2", "192.0.2.2"))
    world.do(endpoint("a", "10.244.0.3", 1))
    world.do(endpoint("c", "10.244.1.3", 1, "node2"))
    return world


def phases(world: World, command: Command) -> list[tuple[list[str], int]]:
    """Of a command with all that comes before it: the events of each phase, and up to where must be enforced first."""
    done: list[tuple[list[str], int]] = []
    while (first := before(world.view, command)).command is not None:
        world.do(first.command)
        done.append((world.bodies, first.seq))
    world.do(command)
    return [*done, (world.bodies, first.seq)]


def test_an_identity_is_allocated_before_an_endpoint_has_it(world: World) -> None:
    first = world.state.seq + 1
    assert phases(world, apply(Pod("shop", "a", (("app", "web"),)))) == [
        (["identity_allocated"], 0),
        (["pod_replaced", "endpoint_updated"], first),
    ]
    seq = world.state.seq
    assert phases(world, apply(Namespace("shop", (("team", "x"),)))) == [
        (["identity_allocated"] * 2, 0),
        (["endpoint_updated"] * 2 + ["namespace_labelled"], seq + 2),
    ]
    seq = world.state.seq
    assert phases(world, endpoint("d", "10.244.0.9", 9)) == [(["endpoint_added"], seq - 3)], (
        "known, but since then only"
    )


def test_a_new_pod_waits_for_its_identity_too(world: World) -> None:
    world.do(apply(Pod("shop", "d", (("app", "new"),))))
    seq = world.state.seq
    assert phases(world, endpoint("d", "10.244.0.9", 9)) == [
        (["identity_allocated"], 0),
        (["endpoint_added"], seq + 1),
    ]
    assert world.state.identities[world.state.endpoints["shop/d"].identity].labels[0] == "k8s:app=new"


def test_a_policy_waits_for_the_labels_that_it_speaks_of_and_they_outlast_it(world: World) -> None:
    seq = world.state.seq
    assert phases(world, apply(policy("p", BLOCK))) == [
        (["identity_allocated"], 0),
        (["endpoint_updated"], seq + 1),
        (["identity_allocated", "policy_replaced"], seq + 2),
    ]
    removal = DeleteObjects(delete("NetworkPolicy", "p", "shop").refs, keep_memberships=True)
    assert before(world.view, removal) == Before(None, seq + 2), "the last move"
    result = world.do(removal)
    assert isinstance(result, ObjectsChanged) and result.unneeded == (parse_cidr(BLOCK),)
    assert world.bodies == ["policy_removed", "identity_released"]
    removed = world.state.seq - 1
    assert phases(world, WithdrawMemberships(result.unneeded)) == [(["endpoint_updated"], removed)]
    assert world.do(apply(policy("q"))).unneeded == ()  # type: ignore[union-attr]


def test_what_another_policy_names_is_not_unneeded(world: World) -> None:
    world.do(apply(policy("p", BLOCK), policy("q", BLOCK)))
    result = world.do(DeleteObjects(delete("NetworkPolicy", "p", "shop").refs, keep_memberships=True))
    assert isinstance(result, ObjectsChanged) and result.unneeded == ()


def test_policies_of_labels_alone_wait_for_moves_and_moves_for_policies(world: World) -> None:
    assert before(world.view, apply(policy("p"))) == NOTHING
    phases(world, apply(Pod("shop", "a", (("app", "web"),))))
    moved = world.state.seq
    assert before(world.view, apply(policy("p"))) == Before(None, moved)
    world.do(apply(policy("p")))
    world.do(apply(Pod("shop", "c", (("app", "web"),))))
    assert before(world.view, apply(Pod("shop", "a"))) == Before(None, moved + 1)


def test_what_would_be_refused_is_not_prepared(world: World) -> None:
    world.view.local_numbers.last = 256
    assert before(world.view, apply(Namespace("x"), policy("p", BLOCK))) == NOTHING


def test_documents_of_one_command_stay_together(world: World) -> None:
    command = apply(Namespace("shop", (("team", "x"),)), policy("p", BLOCK))
    assert isinstance(command, ApplyObjects)
    kinds = []
    while (first := before(world.view, command)).command is not None:
        kinds.append(type(first.command))
        world.do(first.command)
    assert kinds == [AllocateIdentities, PreparePolicies]
    (outcome,) = world.decide(command)
    assert isinstance(outcome, Decided) and outcome.preparations == 0
    bodies = [str(event.WhichOneof("body")) for event in outcome.events]
    assert bodies == [
        "endpoint_updated",
        "endpoint_updated",
        "namespace_labelled",
        "identity_allocated",
        "policy_replaced",
    ]
