"""Which snapshot to take, which to delete, and where the log may begin: what is kept of the past.

1. A snapshot is taken when `every_events` happened since the last one, or a quarter of the age has passed.
2. Events go when they are older than the age or beyond the count, but only up to a complete snapshot, the base: the
   log then begins right after it. A later snapshot must be there too, and where there is an archive, they are in it.
   Age is reckoned to what the newest events say the time is, and one snapshot goes by age at a time.
3. Of snapshots, the base stays, the newest `keep_snapshots`, and between them some in distances of a quarter of what is
   kept, so that one is at hand when its turn to be the base comes.
Easy to get wrong: trimming is only ever up to a snapshot, so what is kept may exceed the limits by that distance.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from kilim.model.settings import (
    LOG_RETENTION_AGE_H,
    LOG_RETENTION_EVENTS,
    SNAPSHOT_EVERY_EVENTS,
    SNAPSHOT_RETENTION_COUNT,
)
from kilim.model.state import State

DISTANCES = 4
HOUR_NS = 3600 * 10**9


@dataclass(frozen=True, slots=True)
class Limits:
    every_events: int
    keep_snapshots: int
    keep_events: int
    keep_age_ns: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A complete snapshot of the state after event `seq`, which happened at `time_ns`."""

    seq: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What there is: events `first_seq` .. `head_seq`, complete snapshots (oldest first), and the events up to
    `archived_seq` in the archive; None: no archive is wanted. `oldest_time_ns` is of event `first_seq`; `recent_ns`
    is what the newest events say the time is; None: nothing goes by age."""

    first_seq: int
    head_seq: int
    oldest_time_ns: int
    snapshots: tuple[Taken, ...]
    archived_seq: int | None = None
    recent_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """`archive_to`, `trim_to`: 0 = nothing to do. `trim_to` is the first event that stays; then `delete` snapshots."""

    take: bool
    archive_to: int
    trim_to: int
    delete: tuple[int, ...]


def limits_of(state: State) -> Limits:
    return Limits(
        SNAPSHOT_EVERY_EVENTS.read(state),
        SNAPSHOT_RETENTION_COUNT.read(state),
        LOG_RETENTION_EVENTS.read(state),
        LOG_RETENTION_AGE_H.read(state) * HOUR_NS,
    )


def plan_retention(kept: Kept, limits: Limits, now_ns: int) -> Plan:
    base = kept.first_seq - 1
    new_base = max((one.seq for one in _candidates(kept, limits, now_ns)), default=base)
    archivable = kept.snapshots[-1].seq if kept.archived_seq is not None and kept.snapshots else 0
    return Plan(
        take=_is_due(kept, limits, now_ns),
        archive_to=archivable if archivable > (kept.archived_seq or 0) else 0,
        trim_to=new_base + 1 if new_base > base else 0,
        delete=tuple(_superseded(kept, limits, new_base)),
    )


def why_untrimmed(kept: Kept, limits: Limits) -> str:
    """Where a trim was asked for and none was due."""
    held = f"{kept.head_seq - kept.first_seq + 1} events are held"
    if kept.head_seq - kept.first_seq + 1 <= limits.keep_events:
        return f"{held}, log-retention-events is {limits.keep_events}; by age one snapshot goes in five minutes"
    usable = [one.seq for one in kept.snapshots[:-1] if one.seq >= kept.first_seq]
    if kept.archived_seq is not None and usable and kept.archived_seq < usable[0]:
        return f"{held}, but the archive ends at event {kept.archived_seq}"
    if not usable:
        return f"{held}, but events go only up to a snapshot before the newest, and there is none"
    return f"{held}, but events go only up to a snapshot, and all after the next one, of {usable[0]}, have to be kept"


def spare_snapshots(kept: Kept, limits: Limits, now_ns: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What can go in need, and in greater need. First what no trim rests on; then all but the base, which with the
    events that are held gives every later state, but nothing can be trimmed then before there are others."""
    base = _base(kept, kept.first_seq - 1)
    candidates = [one for one in _candidates(kept, limits, now_ns) if one.seq >= kept.first_seq]
    wanted = {base, *candidates[-1:], *kept.snapshots[-1:]}
    return (
        tuple(one.seq for one in kept.snapshots if one not in wanted),
        tuple(one.seq for one in kept.snapshots if one in wanted and one != base),
    )


def _base(kept: Kept, seq: int) -> Taken | None:
    """What a log that begins after event `seq` begins from: its snapshot, or the next where a trim was interrupted."""
    return next((one for one in kept.snapshots if one.seq >= seq), None) if seq > 0 else None


def _is_due(kept: Kept, limits: Limits, now_ns: int) -> bool:
    last = kept.snapshots[-1] if kept.snapshots else Taken(kept.first_seq - 1, kept.oldest_time_ns)
    if kept.head_seq <= last.seq:
        return False
    return kept.head_seq - last.seq >= limits.every_events or now_ns - last.time_ns >= limits.keep_age_ns // DISTANCES


def _candidates(kept: Kept, limits: Limits, now_ns: int) -> Iterator[Taken]:
    """Those that may be the base: everything up to them is to go. The newest never."""
    present_ns = min(now_ns, kept.recent_ns) if kept.recent_ns is not None else 0
    next_seq = next((one.seq for one in kept.snapshots if one.seq >= kept.first_seq), 0)
    latest_ns = 0  # clocks of replicas differ: no event is older than one before it; 0: not known
    for one in kept.snapshots[:-1]:
        latest_ns = max(latest_ns, one.time_ns)
        too_many = kept.head_seq - one.seq >= limits.keep_events
        too_old = one.seq <= next_seq and latest_ns > 0 and present_ns - latest_ns > limits.keep_age_ns
        archived = kept.archived_seq is None or one.seq <= kept.archived_seq
        if (too_many or too_old) and archived:
            yield one


def _superseded(kept: Kept, limits: Limits, base_seq: int) -> Iterator[int]:
    """Those before the base, and of those after it what stands closer than the distance; never the newest."""
    yield from (one.seq for one in kept.snapshots if one.seq < base_seq)
    before = _base(kept, base_seq) or Taken(0, kept.oldest_time_ns)
    later = [one for one in kept.snapshots if one.seq > before.seq]
    for number, one in enumerate(later[: -limits.keep_snapshots]):
        if _is_near(before, later[number + 1], limits):
            yield one.seq
        else:
            before = one


def _is_near(one: Taken, other: Taken, limits: Limits) -> bool:
    return (
        other.seq - one.seq <= limits.keep_events // DISTANCES
        and other.time_ns - one.time_ns <= limits.keep_age_ns // DISTANCES
    )
