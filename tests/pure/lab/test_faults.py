"""What cannot be done to a lab is refused in one line that says why."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kilim.lab import clock, faults
from kilim.lab.errors import BadInput
from kilim.lab.topology import Lab, Node, Server

LAB = Lab(
    "pure",
    "10.244.0.0/16",
    (Node("node1", "192.168.60.101", ("10.244.1.0/24",)),),
    (Server("replica1", "192.168.60.21", 4260, 1),),
    (Server("etcd1", "192.168.60.11", 2379, 2),),
)


@pytest.mark.parametrize(
    ("do", "why"),
    [
        (lambda: faults.kill(LAB, "etcd2"), "no process 'etcd2'"),
        (lambda: faults.partition(LAB, "etcd2"), "'etcd2' is not on the underlay"),
        (lambda: faults.fill_disk(LAB, "replica1"), "'replica1' is no etcd member"),
        (lambda: faults.fill_disk(LAB, "etcd1"), "have no disks of their own"),
        (lambda: faults.free_disk(LAB, "etcd1"), "have no disks of their own"),
        (lambda: faults.set_clock(LAB, "etcd1", 60), "'etcd1' is no replica and no agent"),
        (lambda: faults.set_clock(LAB, "node1", 60), "without a clock library"),
    ],
)
def test_what_cannot_be_hurt(do: Callable[[], object], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        do()


def test_an_offset_is_written_over_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "clocks" / "node1"
    for offset_s in (3600, -7200, 0):
        clock.write_offset(file, offset_s)
        assert int.from_bytes(file.read_bytes(), "little", signed=True) == offset_s * 10**9
