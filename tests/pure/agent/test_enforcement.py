"""Arrivals are applied in the order in which they came, however many are taken at once."""

from pathlib import Path

from kilim.agent.cache import DiskCache
from kilim.agent.enforcement import Enforcement
from kilim.agent.inbox import Arrival, Begun, CommitsArrived, HeadArrived, Inbox
from kilim.agent.replica import Replica
from tests.pure.agent.commits import NODE, some_log
from tests.pure.agent.test_pods import Rows


async def test_commits_behind_the_head_are_not_part_of_the_replay(tmp_path: Path) -> None:
    enforcement = Enforcement(Replica(NODE), Inbox(), DiskCache(tmp_path), Rows(), {}, lambda _: None, lambda: None)
    commits = some_log()
    before, after = commits[:5], commits[5:]
    arrivals: list[Arrival] = [
        Begun(from_scratch=True),
        CommitsArrived(tuple(commit.encoded for commit in before)),
        HeadArrived(before[-1].last_seq, before[-1].chain_after),
        CommitsArrived(tuple(commit.encoded for commit in after)),
    ]
    await enforcement._apply(arrivals)
    assert enforcement.in_sync and enforcement.enforced_seq == commits[-1].last_seq
