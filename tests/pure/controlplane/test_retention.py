"""What is kept of the past: nothing that cannot be rebuilt ever goes, and what may go does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from statistics import median_low

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilim.controlplane.decide.retention import (
    HOUR_NS,
    Kept,
    Limits,
    Plan,
    Taken,
    plan_retention,
    spare_snapshots,
    why_untrimmed,
)

HOURS = 10**12  # a present far from zero


@dataclass(slots=True)
class Log:
    """The keeper's world without etcd: times of all events that ever were, and what is held."""

    archive: bool = False
    times: list[int] = field(default_factory=list)
    first_seq: int = 1
    snapshots: set[int] = field(default_factory=set)
    archived: int = 0

    def kept(self) -> Kept:
        recent = median_low(self.times[-100:]) if self.times else None
        taken = tuple(Taken(seq, self.times[seq - 1]) for seq in sorted(self.snapshots))
        oldest = self.times[self.first_seq - 1] if self.first_seq <= len(self.times) else 0
        return Kept(self.first_seq, len(self.times), oldest, taken, self.archived if self.archive else None, recent)

    def round(self, limits: Limits, now_ns: int, done: int = 5) -> Plan:
        """As the keeper does: looks, and carries out the first `done` steps of what is planned."""
        plan = plan_retention(self.kept(), limits, now_ns)
        if plan.take and done > 0:
            self.snapshots.add(len(self.times))
        if plan.archive_to and done > 1:
            self.archived = plan.archive_to
        if plan.trim_to and done > 2:
            self.check_trim(plan.trim_to)
            self.first_seq = plan.trim_to
        if done > 3:
            self.snapshots -= set(plan.delete)
        self.check_rest(limits)
        return plan

    def check_trim(self, to: int) -> None:
        assert to > self.first_seq
        assert to - 1 in self.snapshots, "only what a complete snapshot covers goes"
        assert any(seq >= to for seq in self.snapshots), "and there is another one after it"
        assert not self.archive or self.archived >= to - 1, "and it is archived"

    def check_rest(self, limits: Limits) -> None:
        if self.first_seq > 1:
            assert self.first_seq - 1 in self.snapshots, "the base stays"
            assert sum(seq >= self.first_seq - 1 for seq in self.snapshots) >= 2, "two cover the way to the head"


limits_strategy = st.builds(
    Limits, st.integers(1, 50), st.integers(2, 4), st.integers(1, 200), st.integers(1, 100).map(lambda h: h * HOUR_NS)
)
steps = st.lists(st.tuples(st.integers(0, 60), st.integers(-5, 30), st.integers(0, 5)), max_size=60)


@given(limits_strategy, steps, st.booleans())
def test_nothing_goes_that_cannot_be_rebuilt(limits: Limits, steps: list[tuple[int, int, int]], archive: bool) -> None:
    """Whatever is appended, however clocks jump, wherever the keeper is interrupted."""
    log, now_ns = Log(archive), HOURS
    for events, hours, done in steps:
        now_ns += hours * HOUR_NS
        log.times += [now_ns] * events
        log.round(limits, now_ns, done)


@settings(deadline=None, max_examples=30)
@given(limits_strategy, st.integers(1, 30), st.integers(0, 3), st.booleans())
def test_what_is_kept_is_bounded(limits: Limits, events: int, hours: int, archive: bool) -> None:
    """At a steady rate with a keeper that works: events by the count, snapshots by a number."""
    log, now_ns = Log(archive), HOURS
    distance = max(limits.every_events + events, limits.keep_events // 4 + events)
    for _ in range(200):
        now_ns += hours * HOUR_NS
        log.times += [now_ns] * events
        log.round(limits, now_ns)
        log.round(limits, now_ns)
        held = len(log.times) - log.first_seq + 1
        assert held <= max(limits.keep_events, limits.every_events + events) + 2 * distance
        # The newest events say what time it is, half of a hundred late: each of those may have a snapshot, where events
        # are rarer than a quarter of the age.
        assert len(log.snapshots) <= limits.keep_snapshots + 1 + 2 * 9 + 50


def test_by_age_and_by_count_whichever_comes_first() -> None:
    limits = Limits(every_events=10, keep_snapshots=2, keep_events=100, keep_age_ns=8 * HOUR_NS)
    three = (Taken(10, HOURS), Taken(20, HOURS + 1), Taken(30, HOURS + HOUR_NS))
    kept = Kept(1, 35, HOURS, three)
    late = HOURS + 2 + 8 * HOUR_NS
    assert plan_retention(replace(kept, recent_ns=late), limits, HOURS + 2).trim_to == 0, (
        "one clock says it is not late"
    )
    assert plan_retention(replace(kept, recent_ns=HOURS), limits, late).trim_to == 0, "one clock says it is late"
    assert plan_retention(kept, limits, late).trim_to == 0
    aged = replace(kept, recent_ns=late)
    assert plan_retention(aged, limits, late) == Plan(take=True, archive_to=0, trim_to=11, delete=())
    rest = replace(aged, first_seq=11, oldest_time_ns=HOURS)
    assert plan_retention(rest, limits, late) == Plan(take=True, archive_to=0, trim_to=21, delete=(10,))
    far = Kept(1, 115, HOURS, three)
    assert plan_retention(far, limits, HOURS + HOUR_NS).trim_to == 11
    assert plan_retention(Kept(1, 130, HOURS, three), limits, HOURS + HOUR_NS).trim_to == 21


@given(limits_strategy, steps, st.integers(-(10**6), 10**6), st.integers(0, 49))
def test_one_clock_that_jumps_takes_no_history(
    limits: Limits, steps: list[tuple[int, int, int]], jump_hours: int, written: int
) -> None:
    """The leader's clock, and the events that it has written since: nothing goes that would not go by count."""
    log, now_ns = Log(), HOURS
    for events, _, _ in steps:
        log.times += [now_ns] * events
        log.round(limits, now_ns)
    log.times += [now_ns] * 100
    jumped_ns = now_ns + jump_hours * HOUR_NS
    log.times += [jumped_ns] * written
    by_count = plan_retention(replace(log.kept(), recent_ns=None), limits, jumped_ns)
    assert plan_retention(log.kept(), limits, jumped_ns).trim_to == by_count.trim_to


@given(limits_strategy, steps)
def test_by_age_one_snapshot_goes_at_a_time(limits: Limits, steps: list[tuple[int, int, int]]) -> None:
    """Even where most of the newest events are of the wrong time."""
    log, now_ns = Log(), HOURS
    for events, hours, _ in steps:
        now_ns += abs(hours) * HOUR_NS
        log.times += [now_ns] * events
        log.round(limits, now_ns, done=2)
    far_ns = now_ns + 10**6 * HOUR_NS
    kept = replace(log.kept(), recent_ns=far_ns)
    by_count = plan_retention(replace(kept, recent_ns=None), limits, far_ns).trim_to
    oldest = min(log.snapshots, default=0)
    assert plan_retention(kept, limits, far_ns).trim_to in {0, by_count, oldest + 1}


def test_the_archive_comes_first() -> None:
    limits = Limits(every_events=10, keep_snapshots=2, keep_events=10, keep_age_ns=1000 * HOUR_NS)
    three = (Taken(10, HOURS), Taken(20, HOURS), Taken(30, HOURS))
    plan = plan_retention(Kept(1, 40, HOURS, three, archived_seq=0), limits, HOURS)
    assert (plan.trim_to, plan.archive_to) == (0, 30)
    plan = plan_retention(Kept(1, 40, HOURS, three, archived_seq=15), limits, HOURS)
    assert (plan.trim_to, plan.archive_to) == (11, 30)
    plan = plan_retention(Kept(1, 40, HOURS, three, archived_seq=30), limits, HOURS)
    assert (plan.trim_to, plan.archive_to) == (21, 0)


def test_a_quiet_log_gets_its_snapshot_by_age() -> None:
    limits = Limits(every_events=1000, keep_snapshots=2, keep_events=1000, keep_age_ns=8 * HOUR_NS)
    assert not plan_retention(Kept(1, 0, 0, ()), limits, HOURS).take
    assert not plan_retention(Kept(1, 5, HOURS, ()), limits, HOURS + HOUR_NS).take
    assert plan_retention(Kept(1, 5, HOURS, ()), limits, HOURS + 2 * HOUR_NS).take
    assert not plan_retention(Kept(1, 5, HOURS, (Taken(5, HOURS),)), limits, HOURS + 100 * HOUR_NS).take


def test_in_need_everything_but_the_base_is_spare() -> None:
    limits = Limits(every_events=10, keep_snapshots=2, keep_events=400, keep_age_ns=1000 * HOUR_NS)
    four = tuple(Taken(seq, HOURS) for seq in (10, 20, 30, 35))
    assert spare_snapshots(Kept(1, 40, HOURS, four), limits, HOURS) == ((10, 20, 30), (35,))
    assert spare_snapshots(Kept(11, 40, HOURS, four), limits, HOURS) == ((20, 30), (35,))
    assert spare_snapshots(Kept(11, 425, HOURS, four), limits, HOURS) == ((30,), (20, 35))
    interrupted = Kept(15, 40, HOURS, four)
    assert spare_snapshots(interrupted, limits, HOURS) == ((10, 30), (35,))
    assert plan_retention(interrupted, limits, HOURS).delete == (10,)


@pytest.mark.parametrize(
    ("head", "snapshots", "archived", "said"),
    [
        (90, (50, 90), None, "90 events are held, log-retention-events is 100"),
        (150, (), None, "there is none"),
        (150, (150,), None, "there is none"),
        (150, (60, 150), None, "all after the next one, of 60, have to be kept"),
        (150, (40, 150), 30, "the archive ends at event 30"),
    ],
)
def test_why_no_event_goes(head: int, snapshots: tuple[int, ...], archived: int | None, said: str) -> None:
    kept = Kept(1, head, 0, tuple(Taken(seq, 0) for seq in snapshots), archived)
    limits = Limits(every_events=20, keep_snapshots=2, keep_events=100, keep_age_ns=HOUR_NS)
    assert not plan_retention(kept, limits, 0).trim_to
    assert said in why_untrimmed(kept, limits)
