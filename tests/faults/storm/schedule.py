"""Which faults come when, from a seed alone. PURE.

Every kind of fault meets every role once before any comes again. `leader` is found by asking when the moment comes.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

ETCD_LEADER, ETCD_FOLLOWER, ETCD_MAJORITY, REPLICA, AGENT, EVERYTHING = (
    "the leader of etcd", "a follower of etcd", "two of three etcd members", "a replica", "an agent", "everything",
)  # fmt: skip
KILL, PAUSE, CUT, UNPLUG, FILL, COMPACT, CLOCK = "kill", "pause", "cut", "unplug", "fill", "compact", "clock"

# `cut`: from what it talks to. `unplug`: a node with its pods from everything.
DECK = (
    *((kind, role) for kind in (KILL, PAUSE, CUT) for role in (ETCD_LEADER, ETCD_FOLLOWER, REPLICA, AGENT)),
    (KILL, ETCD_MAJORITY),
    (KILL, EVERYTHING),
    (UNPLUG, AGENT),
    (FILL, ETCD_LEADER),
    (FILL, ETCD_FOLLOWER),
    (COMPACT, ETCD_LEADER),
    (CLOCK, REPLICA),
    (CLOCK, AGENT),
)
_HOURS = (-26, -2, 1, 3, 49)


@dataclass(frozen=True, slots=True)
class Fault:
    """`pick` chooses among several victims; `offset_s` is of a clock; `wait_s` passes before it, `hold_s` with it."""

    kind: str
    role: str
    pick: int
    wait_s: float
    hold_s: float
    offset_s: int = 0
    together: bool = False  # with the one before it, which is still held

    def __str__(self) -> str:
        clock = f" by {self.offset_s:+} s" if self.offset_s else ""
        joined = " meanwhile" if self.together else ""
        return f"after {self.wait_s} s{joined} {self.kind} {self.role} #{self.pick}{clock} for {self.hold_s} s"


def planned(seed: int, count: int) -> list[Fault]:
    chance = random.Random(f"storm {seed}")
    cards = _cards(chance)
    faults: list[Fault] = []
    for _ in range(count):
        kind, role = next(cards)
        clock = chance.choice(_HOURS) * 3600 + chance.randrange(-600, 600) if kind == CLOCK else 0
        wait_s, hold_s = round(chance.uniform(0.1, 1.2), 2), round(chance.uniform(0.6, 3.0), 2)
        joins = chance.random() < 0.2 and bool(faults) and not faults[-1].together
        together = joins and not {role, faults[-1].role} & {EVERYTHING, ETCD_MAJORITY}
        faults.append(Fault(kind, role, chance.randrange(6), wait_s, hold_s, clock, together))
    return faults


def _cards(chance: random.Random) -> Iterator[tuple[str, str]]:
    while True:
        yield from chance.sample(DECK, len(DECK))
