"""The checker accepts what can have happened, and rejects each way in which it cannot."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.storm.checker import History, find_wrongs
from tests.faults.storm.probes import Probed, probe_wrongs
from tests.faults.storm.record import Injected, decode_record, encode_record
from tests.faults.storm.schedule import DECK, planned
from tests.pure.faults.worlds import NODE, body, log_of, policy, right_world, spoiled

Spoil = Callable[[History], Any]


def test_what_can_have_happened_is_accepted() -> None:
    assert find_wrongs(right_world()) == []


def test_an_unknown_command_may_be_in_the_log_or_not() -> None:
    world = right_world()
    assert find_wrongs(spoiled(world, "run-4", outcome="ok", action="configured", seq=6)) == []


def event_lost(world: History) -> None:
    world.log = world.log[:2]
    world.samples, world.sightings, world.readings = [], [], []


def event_twice(world: History) -> None:
    world.log = log_of([policy("run-0", "a", 0)], [policy("run-1", "b", 0)], [policy("run-0", "a", 0)])
    world.operations = world.operations[:2]
    world.samples, world.sightings, world.readings = [], [], []


def stranger(world: History) -> None:
    world.operations = [each for each in world.operations if each.actor != "run-5" and each.actor != "run-4"]


def list_of(*names: str) -> Spoil:
    def spoil(world: History) -> None:
        world.readings = [replace(world.readings[0], names=names)]

    return spoil


def sighting(place: int, **changes: Any) -> Spoil:
    def spoil(world: History) -> None:
        world.sightings[place] = replace(world.sightings[place], **changes)

    return spoil


def sample(place: int, **changes: Any) -> Spoil:
    def spoil(world: History) -> None:
        world.samples[place] = replace(world.samples[place], **changes)

    return spoil


def note(of: str, **changes: Any) -> Spoil:
    return lambda world: spoiled(world, of, **changes)


def drop_sighting(place: int) -> Spoil:
    return lambda world: world.sightings.pop(place)


def repeat_sighting(world: History) -> None:
    world.sightings.insert(1, world.sightings[0])


def gap_in_log(world: History) -> None:
    world.log = [world.log[0], *world.log[2:]]


WRONG: dict[str, tuple[str, Spoil]] = {
    "the log has a gap": ("1", gap_in_log),
    "an acknowledged event is not in the log": ("2", event_lost),
    "an acknowledged event is there twice": ("2", event_twice),
    "refused, and done": ("2", note("run-0", outcome="refused", action="", seq=0)),
    "surely not done, and done": ("2", note("run-0", outcome="not done", action="", seq=0)),
    "unchanged, and changed": ("2", note("run-2", action="unchanged")),
    "of an object that was not asked for": ("2", note("run-1", name="c")),
    "nobody asked for it": ("2", stranger),
    "answered with a seq before the event": ("3", note("run-3", seq=3)),
    "answered with a seq beyond the log": ("3", note("run-3", seq=99)),
    "asked after a later event was known": ("4", note("run-0", asked_ns=62, answered_ns=63)),
    "unknown, but at a place known before it was asked for": ("4", note("run-4", asked_ns=90, answered_ns=95)),
    "an answer older than what was known": ("3", note("run-30", asked_ns=90, answered_ns=95)),
    "unchanged, with something else there": ("5", note("run-20", body=body(7))),
    "not found, and it was there all the time": ("5", note("run-30", name="b", seq=4)),
    "created where it was": ("5", note("run-2", action="created")),
    "configured where nothing was": ("5", note("run-0", action="configured")),
    "configured to what it was": ("5", note("run-2", body=body(0))),
    "deleted by an event that makes it": ("5", note("run-2", action="deleted")),
    "an endpoint's container came never": ("2", note("box", actor="other box")),
    "a list without one": ("6", list_of("shop/a")),
    "a list with one more": ("6", list_of("shop/a", "shop/b", "shop/c")),
    "a follower missed one": ("7", drop_sighting(2)),
    "a follower got one twice": ("7", repeat_sighting),
    "a follower has another chain": ("7", sighting(2, chain_after=bytes(32))),
    "a follower had another chain before": ("7", sighting(2, chain_before=bytes(32))),
    "a follower is beyond the log": ("7", sighting(4, last_seq=99)),
    "a replica has another chain": ("8", sample(0, chain=bytes(32))),
    "a replica has another state": ("8", sample(0, state_digest=bytes(32))),
    "a replica is beyond the log": ("8", sample(0, seq=99)),
    "an agent has another state": ("8", sample(1, state_digest=bytes(32))),
    "an agent has other tables": ("8", sample(1, table_digest=bytes(32))),
    "somebody differs": ("8", sample(0, alarms=("node1 differs",))),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_have_happened_is_rejected(what: str) -> None:
    number, spoil = WRONG[what]
    world = right_world()
    spoil(world)
    found = find_wrongs(world)
    assert any(wrong.startswith(f"{number}: ") for wrong in found), found


def test_two_followers_with_sessions_of_their_own_are_two() -> None:
    world = right_world()
    again = [replace(each, session=1) for each in world.sightings[2:]]
    world.sightings = [*world.sightings[:3], *again]
    assert find_wrongs(world) == []
    world.sightings += [replace(each, follower="etcd2") for each in world.sightings[:1]]
    assert find_wrongs(world) == []


def test_a_snapshot_stands_for_all_before_it() -> None:
    world = right_world()
    world.sightings[2] = replace(world.sightings[2], first_seq=4, chain_before=b"", snapshot=True)
    del world.sightings[1]
    assert find_wrongs(world) == []


def test_notes_come_back_from_a_file_as_they_were() -> None:
    records = [*right_world().records(), Injected("kill", ("etcd1", "etcd2"), 1, 2, "x")]
    assert [decode_record(encode_record(record)) for record in records] == records


def test_a_seed_gives_one_schedule_in_which_everything_comes() -> None:
    plan = planned(7, len(DECK))
    assert plan == planned(7, len(DECK)) != planned(8, len(DECK))
    assert {(fault.kind, fault.role) for fault in plan} == set(DECK)
    assert planned(7, 3) == plan[:3]


def probed(*wrong: dict[str, Any], denied_syns: int = 10) -> Probed:
    return Probed(1.0, 0.1, 0, denied_syns, [("client-node1", "server-node2", True, 5, 0)], list(wrong))


def failure(source: str, allowed: bool, began: int, ended: int) -> dict[str, Any]:
    spent = {"began_ns": began, "ended_ns": ended}
    return {"source": source, "target": "server-node2", "allowed": allowed, "what": "silence", **spent}


def test_only_an_unplugged_node_excuses_a_failed_connection_between_nodes() -> None:
    unplugged = [Injected("unplug", ("node1",), 100, 200)]
    across, within = failure("client-node1", True, 150, 250), failure("client-node2", True, 150, 250)
    assert probe_wrongs(probed(across), unplugged, 10) == []
    assert probe_wrongs(probed(across), [Injected("kill", (NODE,), 100, 200)], 10) != []
    assert probe_wrongs(probed(within), unplugged, 10) != []
    assert probe_wrongs(probed(failure("client-node1", True, 201, 250)), unplugged, 10) != []
    leak = failure("stranger-node1", False, 150, 160)
    accepted = {"source": "10.1.1.1", "target": "server-node2", "what": "accepted"}
    assert probe_wrongs(probed(leak), unplugged, 10) != []
    assert probe_wrongs(probed(accepted), unplugged, 10) != []


def test_policy_may_drop_no_more_than_what_is_denied() -> None:
    assert probe_wrongs(probed(), [], 10) == []
    assert probe_wrongs(probed(), [], 11) != []
