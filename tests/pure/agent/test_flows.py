"""The recent drops: bounded, by time, and what waits in the ring is seen at once."""

import numpy as np

from kilim.agent.flows import Flows, lost_records, named_counts
from kilim.agent.records import CONNECTION, DROP, EVENT, RECORDS_LOST, Events


class RingInMemory:
    fd = -1

    def __init__(self) -> None:
        self.waiting: list[Events] = []

    def write(self, times: range, kind: int = DROP) -> None:
        events = np.zeros(len(times), EVENT)
        events["time_ns"], events["type"], events["reason"] = list(times), kind, 133
        self.waiting.append(events)

    def read(self, max_records: int = 65536) -> Events:
        return self.waiting.pop(0) if self.waiting else np.zeros(0, EVENT)


def test_drops_since() -> None:
    ring = RingInMemory()
    flows = Flows(ring)
    ring.write(range(1, 11))
    ring.write(range(11, 16), CONNECTION)
    ring.write(range(20, 22))
    assert len(flows.drops_since(0)) == 10
    assert flows.records == 10  # a short read ends the turn; the next one goes on
    flows.read()
    assert [each.time_ns for each in flows.drops_since(9)] == [10, 20, 21]
    assert flows.drops_since(9)[0].reason_name == "POLICY_DENIED"


def test_old_drops_go() -> None:
    ring = RingInMemory()
    flows = Flows(ring, kept=100)
    for start in range(0, 1000, 50):
        ring.write(range(start + 1, start + 51))
        flows.read()
    kept = flows.drops_since(0)
    assert len(kept) == 100 and kept[-1].time_ns == 1000


class Count:
    def __init__(self, reason: int, direction: int, packets: int) -> None:
        self.reason, self.direction, self.packets, self.bytes = reason, direction, packets, packets * 100


def test_counters_by_name_and_losses_apart() -> None:
    counted = [Count(0, 0, 7), Count(133, 1, 2), Count(RECORDS_LOST, 0, 5)]
    assert named_counts(counted) == [("FORWARDED", "ingress", 7, 700), ("POLICY_DENIED", "egress", 2, 200)]
    assert lost_records(counted) == 5
