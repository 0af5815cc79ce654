"""A replica folds what follows, refuses what does not, and its tables are the definition's."""

import dataclasses
import random

import pytest

from kilim.agent.replica import Replica
from kilim.kvstore.commit import Commit
from kilim.kvstore.errors import LogBroken
from kilim.model.tables import ENFORCE_INGRESS, Tables
from tests.pure.agent.commits import (
    NODE,
    endpoint_added,
    endpoint_updated,
    identity_allocated,
    log_of,
    policy_replaced,
    some_log,
)


def replayed(count: int) -> Replica:
    return replay(some_log()[:count])


def replay(commits: list[Commit]) -> Replica:
    replica = Replica(NODE)
    for commit in commits:
        replica.replay_commit(commit)
    replica.finish_replay()
    return replica


def test_one_by_one_in_bulk_and_by_replay_give_the_same() -> None:
    commits = some_log()
    single, bulk, replay = Replica(NODE), Replica(NODE), replayed(len(commits))
    kernel = Tables()
    for commit in commits:
        single.apply_commit(commit).apply_to(kernel)
    bulk.apply_commits(commits)
    assert single.tables == bulk.tables == replay.tables == kernel
    assert single.table_digest == bulk.table_digest == replay.table_digest == kernel.digest()
    assert single.state_digest == bulk.state_digest == replay.state_digest
    assert single.position == replay.position


def test_own_endpoints_are_those_of_this_node() -> None:
    replica = replayed(len(some_log()))
    assert set(replica.own_endpoints) == {f"default/p{i}" for i in range(3, 12, 2)}


def test_bulk_in_random_splits() -> None:
    commits, chosen = some_log(), random.Random(5)
    for _ in range(20):
        cuts = sorted({0, len(commits), *(chosen.randrange(len(commits)) for _ in range(3))})
        replica = Replica(NODE)
        for start, end in zip(cuts, cuts[1:], strict=False):
            replica.apply_commits(commits[start:end])
        assert replica.table_digest == replayed(len(commits)).table_digest


def test_a_policy_is_a_step_after_the_endpoints_that_changed_identity_before_it() -> None:
    moved = log_of(
        [identity_allocated(300), identity_allocated(301), endpoint_added("a", 0x0A010003)],
        [policy_replaced("first", 300)],
        [endpoint_updated("a", 0x0A010003, identity=301), policy_replaced("second", 301)],
        [policy_replaced("third", 300), endpoint_updated("a", 0x0A010003, identity=300)],
    )
    replica, written = Replica(NODE), Tables()
    steps = replica.apply_commits(moved)
    seen = []
    for step in steps:
        step.apply_to(written)
        seen.append((written.endpoints[0x0A010003][1], sorted(written.subjects.items())))
    assert seen == [(301, [(301, 0)]), (300, [(300, ENFORCE_INGRESS)])]
    assert written == replica.tables == replay(moved).tables
    assert replica.table_digest == written.digest()
    replica = Replica(NODE)
    assert [len(replica.apply_commits([commit])) for commit in moved] == [1, 1, 2, 1]


@pytest.mark.parametrize("fault", ["gap", "repeat", "other history", "changed record", "empty"])
def test_what_does_not_follow_is_refused_and_changes_nothing(fault: str) -> None:
    commits = some_log()
    replica = replayed(4)
    before = (replica.seq, replica.state_digest, replica.table_digest, replica.chain)
    following = commits[4]
    broken = {
        "gap": commits[5],
        "repeat": commits[3],
        "other history": dataclasses.replace(following, chain_before=bytes(32)),
        "changed record": dataclasses.replace(following, records=(following.records[0] + b"\0",)),
        "empty": dataclasses.replace(following, records=()),
    }[fault]
    with pytest.raises(LogBroken):
        replica.apply_commit(broken)
    assert (replica.seq, replica.state_digest, replica.table_digest, replica.chain) == before


def test_a_break_in_the_middle_of_a_batch_keeps_tables_and_state_together() -> None:
    commits = some_log()
    replica = replayed(3)
    with pytest.raises(LogBroken):
        replica.apply_commits([commits[3], commits[5]])
    replica.apply_commit(commits[4])
    assert replica.table_digest == replayed(5).table_digest
