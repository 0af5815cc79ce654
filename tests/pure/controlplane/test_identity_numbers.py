"""Numbers of identities go round: none is given again before all others that are free."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilim.controlplane.decide.command import AllocateIdentities, ChangeSetting, ReleaseIdentities
from kilim.controlplane.decide.refusal import Code
from kilim.controlplane.decide.view import View
from kilim.model.identity import FIRST_CLUSTER_LOCAL, FIRST_NODE
from kilim.model.nouns import Setting, setting_to_pb
from kilim.model.settings import LAST_IDENTITY
from tests.pure.controlplane.worlds import World

FIRST, LAST = FIRST_CLUSTER_LOCAL, FIRST_CLUSTER_LOCAL + 6


def small_world() -> World:
    world = World()
    world.view.local_numbers.last = LAST
    return world


def allocate(world: World, label: str) -> int:
    world.do(AllocateIdentities((((f"k8s:app={label}",), "test"),)))
    return world.state.identity_of_labels[(f"k8s:app={label}",)]


def test_what_was_released_is_given_again_last() -> None:
    world = small_world()
    assert [allocate(world, f"a{n}") for n in range(3)] == [FIRST, FIRST + 1, FIRST + 2]
    world.do(ReleaseIdentities((FIRST, FIRST + 2)))
    assert world.bodies == ["setting_changed", "identity_released", "identity_released"]
    assert [allocate(world, f"b{n}") for n in range(4)] == [FIRST + 3, FIRST + 4, FIRST + 5, LAST]
    world.do(ReleaseIdentities((FIRST + 4,)))
    assert [allocate(world, f"c{n}") for n in range(3)] == [FIRST, FIRST + 2, FIRST + 4]
    assert world.refusal(AllocateIdentities(((("k8s:app=d",), "test"),))).code is Code.EXHAUSTED


def test_where_it_changes_nothing_the_last_number_is_not_noted_again() -> None:
    world = small_world()
    for n in range(4):
        allocate(world, f"a{n}")
    world.do(ReleaseIdentities((FIRST + 3,)))
    world.do(ReleaseIdentities((FIRST + 1, FIRST + 2)))
    assert world.bodies == ["identity_released"] * 2
    world.do(AllocateIdentities(((("reserved:remote-node",), "test"),)))
    world.do(ReleaseIdentities((FIRST_NODE,)))
    assert world.bodies == ["identity_released"]


def test_nobody_sets_it() -> None:
    assert small_world().refusal(ChangeSetting(LAST_IDENTITY.name, "300")).code is Code.INVALID


@pytest.mark.parametrize("value", ["", "x", "0", "99999999"])
def test_a_note_that_is_none_counts_as_none(value: str) -> None:
    world = World()
    noted = setting_to_pb(Setting(LAST_IDENTITY.name, value))
    world.state.put("setting", LAST_IDENTITY.name, noted.SerializeToString())
    assert View(world.state, world.view.defaults).local_numbers.next_free(world.state) == FIRST


@given(st.lists(st.lists(st.integers(FIRST, LAST), max_size=4), max_size=40))
def test_none_is_given_again_while_there_are_fresh_ones_nor_right_after_its_release(steps: list[list[int]]) -> None:
    """Each step: some are released, one is allocated. The state alone says which."""
    world, given_once = small_world(), set[int]()
    everything = set(range(FIRST, LAST + 1))
    for number, released in enumerate(steps):
        free_before = everything - set(world.state.identities)
        world.do(ReleaseIdentities(tuple(released)))
        free = everything - set(world.state.identities)
        anew = View(world.state, world.view.defaults)
        anew.local_numbers.last = LAST
        assert anew.local_numbers.next_free(world.state) == world.view.local_numbers.next_free(world.state)
        if not free:
            assert world.view.local_numbers.next_free(world.state) is None
            continue
        allocated = allocate(world, f"a{number}")
        assert allocated in (everything - given_once or free_before or free)
        given_once.add(allocated)
