"""What has to be known to every node before a command: never the use of an identity together with its allocation."""

import pytest

from kilim.controlplane.decide.batch import decide_batch
from kilim.controlplane.decide.command import (
    AllocateIdentities,
    ApplyObjects,
    Command,
    DeleteObjects,
    ObjectsChanged,
    Prepared,
    PreparePolicies,
    WithdrawMemberships,
)
from kilim.controlplane.decide.decided import Decided
from kilim.controlplane.decide.draft import NotAtOnce
from kilim.controlplane.decide.phases import Before, before
from kilim.controlplane.decide.view import View
from kilim.model.address import parse_cidr
from kilim.model.nouns import NamedPort, Namespace, Pod
from tests.pure.controlplane.worlds import World, apply, delete, endpoint, look_ups, policy, two_nodes

BLOCK = "10.244.0.0/24"


@pytest.fixture
def world() -> World:
    return two_nodes(endpoint("a", "10.244.0.3", 1), endpoint("c", "10.244.1.3", 1, "node2"))


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
    assert before(world.view, apply(policy("p"))) == Before()
    phases(world, apply(Pod("shop", "a", (("app", "web"),))))
    moved = world.state.seq
    assert before(world.view, apply(policy("p"))) == Before(None, moved)
    world.do(apply(policy("p")))
    world.do(apply(Pod("shop", "c", (("app", "web"),))))
    assert before(world.view, apply(Pod("shop", "a"))) == Before(None, moved + 1)


def test_what_would_be_refused_is_not_prepared(world: World) -> None:
    world.view.local_numbers.last = 256
    assert before(world.view, apply(Namespace("x"), policy("p", BLOCK))) == Before()


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


def anew(world: World, command: Command) -> Decided:
    """As somebody decides who knows the state alone."""
    (outcome,) = decide_batch(View(world.state, world.view.defaults), [command])
    assert isinstance(outcome, Decided)
    return outcome


def is_foretold(world: World, command: Command) -> bool:
    return world.view.foretold.outcome(world.state, command) is not None


@pytest.fixture
def large_world(world: World) -> World:
    """Some pods of one label set offer other ports than the rest, so that identities split while they move."""
    for number in range(10, 130):
        name = f"p{number}"
        port = NamedPort("http", 80 + number % 3, 6)
        world.do(apply(Pod("shop", name, (("app", f"app{number % 7}"),), "", (port,))))
        world.do(endpoint(name, f"10.244.0.{number}", number))
    return world


LARGE_COMMANDS = [
    apply(Namespace("shop", (("team", "x"),))),
    apply(policy("p", BLOCK)),
    apply(policy("p", BLOCK, "10.244.0.0/26", excepts=("10.244.0.32/28",))),
    apply(policy("p", BLOCK), policy("q", "10.244.0.64/26")),  # some pods are in both
    apply(Namespace("shop", (("team", "x"),)), policy("p", BLOCK), Pod("shop", "p30", (("app", "other"),))),
]


@pytest.mark.parametrize("command", LARGE_COMMANDS, ids=range(len(LARGE_COMMANDS)))
def test_a_large_command_is_foretold_as_it_would_be_decided(large_world: World, command: Command) -> None:
    world = large_world
    for phase in range(3):
        first = before(world.view, command)
        if first.command is None:
            break
        assert phase < 2
        assert is_foretold(world, first.command)
        assert world.decide(first.command) == [anew(world, first.command)]
        world.do(first.command)
        assert world.decide(command) == [anew(world, command)]
    world.do(command)
    assert not anew(world, command).events
    assert not is_foretold(world, command)


@pytest.mark.parametrize("command", LARGE_COMMANDS[:4], ids=range(4))
def test_between_its_phases_a_large_command_is_not_decided_again(large_world: World, command: Command) -> None:
    kinds: list[type[Command]] = []
    while (first := before(large_world.view, command)).command is not None:
        assert type(first.command) not in kinds
        kinds.append(type(first.command))
        large_world.do(first.command)
        assert is_foretold(large_world, command)


@pytest.mark.parametrize("happens_first", [True, False])
def test_what_others_do_in_between_is_heeded(large_world: World, happens_first: bool) -> None:
    world, command = large_world, apply(Namespace("shop", (("team", "x"),)))
    first = before(world.view, command)
    assert isinstance(first.command, AllocateIdentities)
    other = apply(Pod("shop", "p30", (("app", "other"),)))
    steps: list[Command] = [other, first.command] if happens_first else [first.command, other]
    for step in steps:
        world.do(step)
    assert not is_foretold(world, command)
    assert world.decide(command) == [anew(world, command)]


def test_as_many_other_events_are_no_phase(large_world: World) -> None:
    world, command = large_world, apply(Namespace("shop", (("team", "x"),)))
    first = before(world.view, command)
    assert isinstance(first.command, AllocateIdentities)
    world.do(AllocateIdentities(first.command.wanted[:-1]))
    world.do(apply(Namespace("elsewhere")))
    assert not is_foretold(world, command)
    assert world.decide(command) == [anew(world, command)]


def test_others_are_decided_on_what_is_foretold(large_world: World) -> None:
    world, command = large_world, apply(Namespace("shop", (("team", "x"),)))
    before(world.view, command)
    later = endpoint("late", "10.244.0.200", 200)
    assert is_foretold(world, command)
    together = world.decide(command, later)
    assert together == decide_batch(View(world.state, world.view.defaults), [command, later])
    assert world.decide(later, command) == decide_batch(View(world.state, world.view.defaults), [later, command])


@pytest.mark.parametrize("others_come", [False, True])
@pytest.mark.parametrize("command", LARGE_COMMANDS[1:4], ids=range(3))
def test_a_large_preparation_in_pieces_is_as_in_one(
    large_world: World, command: Command, others_come: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilim.controlplane.decide.phases.PIECE", 50)
    world = large_world
    wanted = [event for event in anew(world, command).events if event.WhichOneof("body") == "endpoint_updated"]
    first = before(world.view, command)
    assert isinstance(first.command, AllocateIdentities) and isinstance(first.later, PreparePolicies)
    world.do(first.command)
    updates: list[object] = []
    is_all = False
    while not is_all:
        if others_come:
            world.do(apply(Namespace(f"n{len(updates)}")))
        assert is_foretold(world, first.later) != others_come
        outcome = world.decide(first.later)[0]
        assert isinstance(outcome, Decided) and len(outcome.events) <= 50
        if others_come:
            assert outcome == anew(world, first.later)
        result = world.happen(outcome)
        assert isinstance(result, Prepared)
        is_all = result.is_all
        updates += outcome.events
    assert updates == wanted
    assert is_foretold(world, command) != others_come
    assert world.decide(command) == [anew(world, command)]
    assert not any(event.WhichOneof("body") == "endpoint_updated" for event in anew(world, command).events)


def test_what_takes_too_many_steps_leaves_no_trace(large_world: World) -> None:
    world = large_world
    for command in LARGE_COMMANDS:
        trace = world.state.digest, look_ups(world.view)
        with pytest.raises(NotAtOnce):
            decide_batch(world.view, [endpoint("x", "10.244.0.250", 250), command], 50)
        assert (world.state.digest, look_ups(world.view)) == trace
        assert decide_batch(world.view, [command], 1000) == [anew(world, command)]


def test_a_copy_of_a_state_goes_its_own_way(large_world: World) -> None:
    state = large_world.state
    digest, copy = state.digest, state.copy()
    assert (copy.seq, copy.digest, list(copy.records())) == (state.seq, digest, list(state.records()))
    world = World()
    world.view = View(copy, world.view.defaults)
    world.do(apply(Namespace("shop", (("team", "x"),))))
    assert state.digest == digest != copy.digest
    assert copy.identity_of_labels != state.identity_of_labels
