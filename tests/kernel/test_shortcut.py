"""The short way of a connection between two pods of the node: taken while nothing changes, and by nobody else."""

import pytest

from kilim.agent.bpf.rows import endpoint_keys, subject_keys
from kilim.agent.records import FORWARDED
from kilim.model.tables import ALLOW, DENY, EndpointValue, TablesDelta
from tests.kernel.frames import ACK, FIN, RST, SYN, TCP, UDP, A, B, tcp, udp
from tests.kernel.rig import EGRESS, INGRESS, REDIRECT, Rig, row

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
