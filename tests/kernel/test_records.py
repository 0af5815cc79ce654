"""The ring buffer: order, batches across its end, loss that is counted."""

import pytest

from kilim.agent.bpf import syscall
from kilim.agent.records import (
    RECORDS_LOST,
    decode_counts,
    decode_records,
    reason_name,
    select_connections,
    select_drops,
)  # fmt: skip
from tests.kernel.frames import A, B, tcp
from tests.kernel.rig import INGRESS, Rig

pytestmark = pytest.mark.usefixtures("family")


def test_records_come_in_order_across_the_end_of_the_ring(rig: Rig) -> None:
    rig.datapath.events.read()
    sent = seen = 0
    program = rig.datapath.program_fd("from_endpoint")
    for _ in range(12):  # 12 * 200 records of 56 bytes are twice the ring
        for _ in range(200):
            sent += 1
            syscall.run_program(program, tcp(A, B, sport=sent))
        batch = rig.datapath.events.read()
        assert batch["src_port"].tolist() == list(range(seen + 1, sent + 1))
        assert (batch["time_ns"][1:] >= batch["time_ns"][:-1]).all()
        seen = sent
    assert len(rig.datapath.events.read()) == 0


def test_lost_records_are_counted(rig: Rig) -> None:
    rig.set_policy(B, {}, enforced=1)
    syscall.run_program(rig.datapath.program_fd("from_endpoint"), tcp(A, B), 5000)
    events = rig.datapath.events.read()
    lost = sum(packets for (reason, _), (packets, _) in rig.counters().items() if reason == RECORDS_LOST)
    assert len(events) + lost == 5000 and lost > 0
    assert decode_counts(events) == {(133, INGRESS): len(events)}


def test_decoding(rig: Rig) -> None:
    events = rig.datapath.events
    events.read()
    program = rig.datapath.program_fd("from_endpoint")
    syscall.run_program(program, tcp(A, B))
    rig.set_policy(B, {}, enforced=1)
    syscall.run_program(program, tcp(A, B, sport=1))
    batch = events.read()
    assert (len(select_connections(batch)), len(select_drops(batch))) == (1, 1)
    opened, dropped = decode_records(batch)
    assert (opened.endpoint_id, opened.flags, opened.direction_name) == (A.endpoint_id, 3, "EGRESS")
    assert (dropped.reason_name, dropped.direction_name, dropped.length) == ("POLICY_DENIED", "INGRESS", len(tcp(A, B)))
    assert reason_name(250) == "REASON_250"
