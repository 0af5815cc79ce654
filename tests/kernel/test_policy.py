"""Verdicts: what a row of `policy` lets through."""

import pytest

from kilim.model.tables import ALLOW, DENY, TablesDelta
from tests.kernel.frames import (
    CIDR,
    FAMILY,
    NODE,
    OTHER_NODE,
    REMOTE,
    TCP,
    UDP,
    WORLD,
    A,
    B,
    End,
    icmp,
    icmp_protocol,
    sctp,
    tcp,
    udp,
)
from tests.kernel.rig import EGRESS, INGRESS, PASS, REDIRECT, SHOT, Rig, row

pytestmark = pytest.mark.usefixtures("family")

POLICY_DENIED, POLICY_DENY, NO_POLICY = 133, 181, 165


def test_without_enforcement_everything_passes(rig: Rig) -> None:
    assert rig.out(tcp(A, B)).verdict == REDIRECT
    assert rig.out(tcp(A, REMOTE)).verdict == REDIRECT
    assert rig.out(tcp(A, WORLD)).verdict == REDIRECT
    assert rig.out(tcp(A, NODE)).verdict == PASS
    assert rig.from_host(tcp(NODE, A)).verdict == PASS
    assert rig.from_wire(tcp(WORLD, A)).verdict == REDIRECT


def test_enforced_without_rows_drops(rig: Rig) -> None:
    rig.set_policy(B, {}, enforced=1)
    outcome = rig.out(tcp(A, B))
    assert (outcome.verdict, outcome.reason) == (SHOT, POLICY_DENIED)
    [record] = outcome.records
    assert (record.src_ip, record.dst_ip, record.src_port, record.dst_port) == (A.ip, B.ip, 40000, 80)
    assert (record.src_identity, record.dst_identity, record.direction) == (A.identity, B.identity, INGRESS)
    assert rig.out(tcp(B, A)).passed, "only ingress is enforced"


def test_egress_of_the_sender_and_ingress_of_the_receiver_both_count(rig: Rig) -> None:
    rig.set_policy(A, {row(EGRESS, B.identity): ALLOW}, enforced=2)
    assert rig.out(tcp(A, B)).passed
    rig.set_policy(B, {row(INGRESS, WORLD.identity): ALLOW}, enforced=1)
    assert rig.out(tcp(A, B, sport=1)).reason == POLICY_DENIED
    outcome = rig.out(tcp(A, REMOTE))
    assert outcome.reason == POLICY_DENIED and outcome.records[0].direction == EGRESS


@pytest.mark.parametrize("source", [REMOTE, CIDR, WORLD, OTHER_NODE])
def test_peer_from_the_wire_is_known_by_its_prefix(rig: Rig, source: End) -> None:
    rig.write(TablesDelta(ipcache={REMOTE.host: (REMOTE.identity, 0)}))  # direct routing
    rig.set_policy(A, {row(INGRESS, source.identity): ALLOW}, enforced=1)
    for sender in (REMOTE, CIDR, WORLD, OTHER_NODE):
        assert rig.from_wire(tcp(sender, A)).passed == (sender == source)


def test_any_peer(rig: Rig) -> None:
    rig.set_policy(B, {row(INGRESS, 0, TCP, 80, 16): ALLOW}, enforced=1)
    assert rig.out(tcp(A, B)).passed
    assert rig.out(tcp(A, B, dport=81)).reason == POLICY_DENIED
    assert rig.out(udp(A, B, dport=80)).reason == POLICY_DENIED


def test_deny_wins_whichever_row_is_longer(rig: Rig) -> None:
    rig.set_policy(B, {row(INGRESS, 0): DENY, row(INGRESS, A.identity, TCP, 80, 16): ALLOW}, enforced=1)
    assert rig.out(tcp(A, B)).reason == POLICY_DENY
    rig.set_policy(B, {row(INGRESS, 0, TCP, 80, 16): ALLOW, row(INGRESS, A.identity): DENY}, enforced=1)
    assert rig.out(tcp(A, B)).reason == POLICY_DENY
    assert rig.from_wire(tcp(WORLD, B)).passed


def test_port_range_by_prefixes(rig: Rig) -> None:
    """1000..1023 is two prefixes: 1000/13 and 1008/12."""
    rows = {row(INGRESS, 0, TCP, 1000, 13): ALLOW, row(INGRESS, 0, TCP, 1008, 12): ALLOW}
    rig.set_policy(B, rows, enforced=1)
    allowed = [port for port in range(990, 1034) if rig.out(tcp(A, B, dport=port)).passed]
    assert allowed == list(range(1000, 1024))


def test_protocol_any_covers_all_and_a_longer_row_excepts(rig: Rig) -> None:
    rig.set_policy(B, {row(INGRESS, A.identity): ALLOW, row(INGRESS, A.identity, UDP, 53, 16): DENY}, enforced=1)
    assert rig.out(tcp(A, B)).passed
    assert rig.out(sctp(A, B)).passed
    assert rig.out(icmp(A, B)).passed
    assert rig.out(udp(A, B, dport=54)).passed
    assert rig.out(udp(A, B, dport=53)).reason == POLICY_DENY


def test_icmp_type_is_the_port(rig: Rig) -> None:
    rig.set_policy(B, {row(INGRESS, 0, icmp_protocol(), 128 if FAMILY.is_ipv6 else 8, 16): ALLOW}, enforced=1)
    assert rig.out(icmp(A, B, 8)).passed
    assert rig.out(icmp(A, B, 13)).reason == POLICY_DENIED
    assert rig.out(icmp(A, B, 13)).records[0].dst_port == 13


def test_identity_without_policy_is_closed(rig: Rig) -> None:
    rig.write(TablesDelta(subjects={B.identity: None}))
    assert rig.out(tcp(A, B)).reason == NO_POLICY
    assert rig.out(tcp(B, A)).reason == NO_POLICY
    assert rig.from_host(tcp(NODE, B)).reason == NO_POLICY
    rig.write(TablesDelta(subjects={B.identity: 0}))
    assert rig.out(tcp(A, B)).passed


def test_host_is_a_peer_like_another(rig: Rig) -> None:
    rig.set_policy(A, {row(INGRESS, 1, TCP, 80, 16): ALLOW, row(EGRESS, 1, TCP, 4260, 16): ALLOW})
    assert rig.from_host(tcp(NODE, A)).verdict == PASS
    assert rig.from_host(tcp(NODE, A, dport=81)).reason == POLICY_DENIED
    assert rig.out(tcp(A, NODE, dport=4260)).verdict == PASS
    assert rig.out(tcp(A, NODE, dport=22)).reason == POLICY_DENIED
