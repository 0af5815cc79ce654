"""Who appends when: by the commits that all see, without a word between them."""

import random

import pytest

from kilim.controlplane.turns import ASKED_MAX_S, SLOT_MAX_S, SLOT_MIN_S, WRITERS_MAX, Turns, asked_slot_s
from kilim.kvstore.turn import Asked

APPEND_S = 0.001


def line_of(*writers: str, at_s: float = 0.0) -> Turns:
    turns = Turns()
    for writer in writers:
        turns.note_commit(writer, at_s)
    return turns


def contend(names: list[str], commits: int, seed: int) -> tuple[list[str], list[int]]:
    """All have something to append all the time; each sees a commit a little later than it was made. Who made the
    commits, and how many went in vain before each."""
    chance = random.Random(seed)
    turns = {name: Turns() for name in names}
    made: list[str] = []
    lost: list[int] = []
    now_s = 0.0
    for _ in range(commits):
        sees_s = {name: now_s + chance.uniform(0.0, 0.4) * APPEND_S for name in names}
        goes_s = {name: sees_s[name] + turns[name].wait_s(name, sees_s[name]) for name in names}
        first = min(names, key=lambda name: (goes_s[name], chance.random()))
        ends_s = goes_s[first] + APPEND_S
        lost.append(sum(goes_s[name] < ends_s for name in names) - 1)
        made.append(first)
        for name in names:
            turns[name].note_commit(first, ends_s)
        now_s = ends_s
    return made, lost


@pytest.mark.parametrize("replicas", [2, 3, 5])
@pytest.mark.parametrize("seed", range(20))
def test_all_who_contend_go_in_turn_and_nothing_is_lost(replicas: int, seed: int) -> None:
    made, lost = contend([f"r{n}" for n in range(replicas)], 40, seed)
    settled = made[-2 * replicas :]
    assert settled[:replicas] == settled[replicas:]
    assert len(set(settled)) == replicas
    assert sum(lost[-2 * replicas :]) == 0


def test_who_is_alone_never_waits() -> None:
    assert Turns().wait_s("a", 0.0) == 0
    assert line_of("a", "a").wait_s("a", 0.0) == 0
    assert line_of("a").wait_s("b", 0.0) == 0


def test_each_one_before_us_has_a_slot_from_the_last_commit_on() -> None:
    turns = line_of("a", "b", "c", at_s=5.0)
    assert turns.wait_s("a", 5.0) == 0
    assert turns.wait_s("b", 5.0) == pytest.approx(SLOT_MIN_S)
    assert turns.wait_s("c", 5.0) == pytest.approx(2 * SLOT_MIN_S)
    assert turns.wait_s("c", 5.0 + SLOT_MIN_S) == pytest.approx(SLOT_MIN_S)
    assert turns.wait_s("c", 6.0) == 0


def test_who_lets_its_turn_pass_is_out() -> None:
    turns = line_of("a", "b", "c")
    turns.note_commit("b", 0.0)  # c, b
    assert turns.wait_s("a", 0.0) == 0
    assert turns.wait_s("c", 0.0) == 0
    turns.note_commit("b", 0.0)  # b
    assert turns.wait_s("b", 0.0) == 0


def test_a_slot_grows_with_what_appends_take_and_has_bounds() -> None:
    turns = line_of("a", "b")
    for took_s, slot_s in ((0.0, SLOT_MIN_S), (0.01, 0.04), (10.0, SLOT_MAX_S)):
        for _ in range(50):
            turns.note_append(took_s)
        assert turns.wait_s("b", 0.0) == pytest.approx(slot_s, rel=0.01)


def test_writers_that_never_come_again_do_not_pile_up() -> None:
    turns = line_of(*(f"w{n}" for n in range(10 * WRITERS_MAX)))
    assert turns.wait_s(f"w{10 * WRITERS_MAX - 1}", 0.0) == pytest.approx((WRITERS_MAX - 1) * SLOT_MIN_S)


def test_who_asks_is_left_its_slot_until_its_commit_and_once() -> None:
    turns = line_of("a", "b")
    turns.note_asked(Asked("c", 7, 500), 1.0)
    assert turns.wait_s("b", 1.0) == turns.wait_s("d", 1.0) == 0.5
    assert turns.wait_s("c", 1.0) == 0.0
    turns.note_commit("b", 1.1)  # was on its way
    assert turns.wait_s("d", 1.1) == pytest.approx(0.4)
    turns.note_commit("c", 1.2)
    assert turns.wait_s("d", 1.2) == 0.0
    turns.note_asked(Asked("c", 7, 500), 1.3)  # nobody has taken it back
    assert turns.wait_s("d", 1.3) == 0.0
    turns.note_asked(Asked("c", 8, 999_999_999), 1.4)
    assert turns.wait_s("d", 1.4) == ASKED_MAX_S


def test_where_nobody_asks_nobody_waits() -> None:
    turns = line_of("a")
    turns.note_asked(None, 1.0)
    assert turns.wait_s("b", 1.0) <= 0.005


def test_a_slot_is_longer_than_a_try_and_has_bounds() -> None:
    assert asked_slot_s(0.2) > 0.4
    assert asked_slot_s(0.0) > 0.0
    assert asked_slot_s(60.0) == ASKED_MAX_S
