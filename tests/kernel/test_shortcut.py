"""The short way of a connection between two pods of the node: taken while nothing changes, and by nobody else."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kilim.agent.bpf import syscall
from kilim.agent.bpf.datapath import Datapath, Settings, load_objects, remove_all
from kilim.agent.bpf.rows import endpoint_keys, subject_keys
from kilim.agent.records import FORWARDED
from kilim.model.tables import ALLOW, DENY, EndpointValue, TablesDelta
from tests.kernel.frames import ACK, FIN, OTHER_NODE, REMOTE, RST, SYN, TCP, UDP, A, B, tcp, udp
from tests.kernel.rig import EGRESS, INGRESS, REDIRECT, SHOT, Rig, row

pytestmark = pytest.mark.usefixtures("family")

DENIED, DENY_RULE, INVALID_SOURCE_MAC, INVALID_SOURCE_IP = 133, 181, 130, 132


@pytest.fixture
def open_pair(rig: Rig) -> Rig:
    """With an open connection of each protocol from A to B, and its short way."""
    rig.set_policy(A, {row(EGRESS, B.identity): ALLOW})
    rig.set_policy(B, {row(INGRESS, A.identity): ALLOW})
    for _ in range(2):
        for there, back in ((tcp(A, B), tcp(B, A, SYN | ACK, 80, 40000)), (udp(A, B), udp(B, A, 53, 40000))):
            assert rig.out(there).passed and rig.out(back).passed
    return rig


def without_rows(rig: Rig) -> None:
    """Behind the driver's back: nobody says that anything has changed."""
    maps = rig.datapath.maps
    maps["policy"].delete(maps["policy"].read()[0])
    maps["subjects"].delete(subject_keys([A.identity, B.identity]))
    maps["endpoints"].delete(endpoint_keys([A.ip, B.ip]))


def test_it_needs_no_row_but_the_connection_s(open_pair: Rig) -> None:
    before = open_pair.counters()
    usual = open_pair.out(tcp(A, B, ACK))
    without_rows(open_pair)
    for frame in (tcp(A, B, ACK), tcp(B, A, ACK, 80, 40000), udp(A, B), udp(B, A, 53, 40000)):
        assert open_pair.out(frame).verdict == REDIRECT
    assert open_pair.out(tcp(A, B, ACK)).frame == usual.frame, "MAC addresses as on the long way"
    for way in (EGRESS, INGRESS):
        assert open_pair.counters()[FORWARDED, way][0] == before[FORWARDED, way][0] + 6
    assert open_pair.out(tcp(A, B, ACK, sport=40001)).reason == INVALID_SOURCE_IP


def test_any_change_ends_it(open_pair: Rig) -> None:
    without_rows(open_pair)
    open_pair.tables.write(TablesDelta(endpoints={0x7F000009: EndpointValue(9, 9)}), 900, {0x7F000009: 9})
    assert open_pair.out(tcp(A, B, ACK)).reason == INVALID_SOURCE_IP


@pytest.mark.parametrize("times", [1, 2, 3])
def test_no_order_of_changes_brings_an_epoch_back(open_pair: Rig, times: int) -> None:
    """A connection that is refused, and what its entry remembers, stay refused whatever else changes."""
    identity = 700
    for _ in range(times):  # ahead of the changes of endpoints
        open_pair.write(TablesDelta(subjects={(identity := identity + 1): 0}))
    for frame in (tcp(A, B, ACK), udp(A, B)):
        assert open_pair.out(frame).passed
    open_pair.set_policy(B, {row(INGRESS, A.identity): DENY})
    for each in range(2 * times + 4):
        ip = 0x7F000009 + each
        open_pair.write(TablesDelta(endpoints={ip: EndpointValue(9, 9)}), {ip: 9})
        assert open_pair.out(tcp(A, B, ACK)).reason == DENY_RULE, f"after {each + 1} changes"


def test_a_change_is_said_again_once_all_programs_have_seen_it(open_pair: Rig) -> None:
    """One may have read the number of the change, and the rows of before it."""
    tables = open_pair.tables
    for delta in (
        TablesDelta(endpoints={0x7F000009: EndpointValue(9, 9)}),
        TablesDelta(subjects={701: 0}),
        TablesDelta(ipcache={(0x7F000009, 32): (9, 0)}),
    ):
        tables.settle(tables.unsettled)
        assert not tables.unsettled
        for frame in (tcp(A, B, ACK), tcp(B, A, ACK, 80, 40000)):
            assert open_pair.out(frame).passed
        open_pair.write(delta, {A.ip: 1, B.ip: 1, 0x7F000009: 9})
        (number,) = tables.unsettled
        before = number.value
        tables.settle(tables.unsettled)
        assert number.value != before and not tables.unsettled


def test_what_changes_while_programs_are_waited_for_waits_for_the_next(open_pair: Rig) -> None:
    tables = open_pair.tables
    due = tables.unsettled
    open_pair.write(TablesDelta(subjects={701: 0}))
    tables.settle(due)
    assert len(tables.unsettled) == 1
    tables.settle(tables.unsettled)
    assert not tables.unsettled


@pytest.mark.parametrize("turn", ["egress", "ingress"])
def test_a_verdict_that_turns_counts_from_the_next_packet_on(open_pair: Rig, turn: str) -> None:
    end, rows = (A, {row(EGRESS, B.identity): DENY}) if turn == "egress" else (B, {row(INGRESS, A.identity): DENY})
    open_pair.set_policy(end, rows)
    for frame in (tcp(A, B, ACK), tcp(B, A, ACK, 80, 40000), udp(A, B), udp(B, A, 53, 40000)):
        assert open_pair.out(frame).reason == DENY_RULE


def test_it_goes_on_where_a_change_is_not_about_it(open_pair: Rig) -> None:
    open_pair.set_policy(
        B, {row(INGRESS, A.identity): ALLOW, row(INGRESS, 77, TCP): DENY, row(INGRESS, 78, UDP): ALLOW}
    )
    for frame in (tcp(A, B, ACK), tcp(B, A, ACK, 80, 40000), tcp(A, B, ACK)):
        assert open_pair.out(frame).passed
    without_rows(open_pair)
    assert open_pair.out(tcp(A, B, ACK)).passed


def test_who_pretends_to_be_an_end_does_not_get_it(open_pair: Rig) -> None:
    frame = tcp(A, B, ACK)
    forged = frame[:6] + bytes.fromhex("0a5800000063") + frame[12:]
    assert open_pair.out(forged).reason == INVALID_SOURCE_MAC


def test_an_endpoint_that_moved_is_found_where_it_is(open_pair: Rig) -> None:
    """B has another interface now; what leaves says so by the MAC addresses of its endpoint's id."""
    moved = EndpointValue(200, B.identity)
    open_pair.write(TablesDelta(endpoints={B.ip: moved}))
    for _ in range(3):
        assert open_pair.out(tcp(A, B, ACK)).frame[:12] == bytes.fromhex("0a58000000c8 0a5a000000c8")


def test_the_state_of_the_connection_is_kept(open_pair: Rig) -> None:
    for frame in (tcp(A, B, FIN | ACK), tcp(B, A, FIN | ACK, 80, 40000)):
        assert open_pair.out(frame).passed
    (entry,) = (each for each in open_pair.connections() if each["protocol"] == "6")
    assert (entry["flags"], entry["reply_flags"]) == ("0x13", "0x13") and int(entry["expires_s"]) <= 11
    assert open_pair.out(tcp(A, B, SYN)).opened, "another one with the same ends"
    assert open_pair.out(tcp(B, A, RST | ACK, 80, 40000)).passed


def test_a_syn_of_the_other_end_is_none_of_it(open_pair: Rig) -> None:
    assert open_pair.out(tcp(B, A, SYN, 80, 40000)).reason == DENIED
    assert open_pair.out(tcp(A, B, ACK)).passed


def test_audit_mode_sees_each_packet(rig: Rig) -> None:
    rig.set_policy(B, {}, 1)
    rig.set_audit_mode(B)
    for _ in range(3):
        assert rig.out(tcp(A, B)).passed and rig.out(tcp(B, A, SYN | ACK, 80, 40000)).passed
    rig.set_audit_mode()
    assert rig.out(tcp(A, B, ACK)).reason == DENIED


@pytest.fixture(scope="module")
def _native(name_prefix: str, settings: Settings) -> Iterator[Datapath]:
    root = f"/sys/fs/bpf/{name_prefix}-native"
    try:
        datapath = load_objects(replace(settings, tunnel_ifindex=0, tunnel_port=0, masquerade_ipv4=True), root)
        yield datapath
        datapath.close()
    finally:
        remove_all(root)


@pytest.fixture
def open_wire(_native: Datapath) -> Rig:
    """With an open connection from A to a pod of another node, and its short way."""
    rig = Rig(_native)
    rig.set_policy(A, {row(EGRESS, REMOTE.identity): ALLOW})
    for _ in range(2):
        assert rig.out(tcp(A, REMOTE)).passed and rig.from_wire(tcp(REMOTE, A, SYN | ACK, 80, 40000)).passed
    return rig


def without_any_row(rig: Rig) -> None:
    without_rows(rig)
    maps = rig.datapath.maps
    maps["ipcache"].delete(maps["ipcache"].read()[0])


def test_to_and_from_the_wire_it_needs_no_row_either(open_wire: Rig) -> None:
    there, back = tcp(A, REMOTE, ACK), tcp(REMOTE, A, ACK, 80, 40000)
    usual = [open_wire.out(there), open_wire.from_wire(back)]
    before = open_wire.counters()
    without_any_row(open_wire)
    assert [open_wire.out(there), open_wire.from_wire(back)] == usual
    for way in (EGRESS, INGRESS):
        assert open_wire.counters()[FORWARDED, way][0] == before[FORWARDED, way][0] + 1
    assert open_wire.out(tcp(A, REMOTE, ACK, sport=40001)).reason == INVALID_SOURCE_IP
    assert open_wire.from_wire(tcp(REMOTE, A, SYN, 80, 40001)).verdict == 0, "nobody's"


def test_an_address_that_is_another_s_now_ends_it(open_wire: Rig) -> None:
    open_wire.write(TablesDelta(ipcache={REMOTE.host: (1077, OTHER_NODE.ip)}))
    assert open_wire.out(tcp(A, REMOTE, ACK)).reason == DENIED
    assert open_wire.from_wire(tcp(REMOTE, A, ACK, 80, 40000)).reason == DENIED


def test_what_may_not_fit_goes_the_long_way(open_wire: Rig) -> None:
    without_any_row(open_wire)
    frame = tcp(A, REMOTE, ACK)
    assert open_wire.out(frame + bytes(1400 - len(frame))).reason == INVALID_SOURCE_IP


def test_the_wire_does_not_get_the_way_of_two_pods(open_pair: Rig) -> None:
    assert open_pair.from_wire(tcp(A, B, ACK)).reason == INVALID_SOURCE_IP


def test_what_programs_of_before_have_noted_ends_with_them(settings: Settings, bpf_root: Path) -> None:
    """They go on beside an agent that has begun, here without a tunnel, until its own take their place, with one."""
    native = load_objects(replace(settings, tunnel_ifindex=0, tunnel_port=0), bpf_root)
    before = Rig(native)
    before.set_policy(A, {row(EGRESS, REMOTE.identity): ALLOW})
    tunnel = load_objects(settings, bpf_root)
    for _ in range(2):
        assert before.out(tcp(A, REMOTE)).passed and before.from_wire(tcp(REMOTE, A, SYN | ACK, 80, 40000)).passed
    tunnel.begin_takeover()
    tunnel.end_takeover()
    forged = syscall.run_program(tunnel.program_fd("from_netdev"), tcp(REMOTE, A, ACK, 80, 40000), 1)
    assert forged.retval == SHOT, "who has a tunnel speaks through it"
    native.close()
    tunnel.close()
