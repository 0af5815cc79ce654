"""Packets that no policy is asked about: forged, broken, foreign, and where the good ones go."""

import pytest

from kilim.agent.records import FORWARDED
from kilim.model.address import parse_ip
from kilim.model.mac import node_mac, pod_mac
from kilim.model.tables import TablesDelta
from tests.kernel.frames import NODE, REMOTE, TCP, WORLD, A, B, End, arp, ipv4, ipv6, tcp
from tests.kernel.rig import PASS, SHOT, Rig

INVALID_SOURCE_IP, INVALID_PACKET, CT_INVALID_HEADER, CT_UNKNOWN_L4 = 132, 134, 135, 137
UNROUTABLE, NO_LOCAL_ENDPOINT, FRAGMENT, UNSUPPORTED_L3 = 151, 152, 157, 139

STRANGER = End(parse_ip("10.61.1.99"), 0)


def test_source_must_be_the_endpoint_behind_the_interface(rig: Rig) -> None:
    assert rig.out(tcp(STRANGER, B)).reason == INVALID_SOURCE_IP
    assert rig.out(tcp(REMOTE, B)).reason == INVALID_SOURCE_IP
    rig.write(TablesDelta(), {A.ip: 77, B.ip: 1})
    assert rig.out(tcp(A, B)).reason == INVALID_SOURCE_IP


@pytest.mark.parametrize("source", [NODE, A, REMOTE])
def test_the_wire_may_not_speak_for_us_or_for_the_tunnel(rig: Rig, source: End) -> None:
    assert rig.from_wire(tcp(source, B)).reason == INVALID_SOURCE_IP


def test_the_wire_passes_what_is_not_for_an_endpoint(rig: Rig) -> None:
    assert rig.from_wire(tcp(WORLD, NODE)).verdict == PASS
    assert rig.from_wire(ipv6()).verdict == PASS
    assert rig.from_wire(arp(WORLD.ip)).verdict == PASS
    assert rig.counters() == {}


def test_host_reaches_only_endpoints_of_the_interface(rig: Rig) -> None:
    assert rig.from_host(tcp(NODE, STRANGER)).reason == NO_LOCAL_ENDPOINT


def test_overlay_without_a_tunnel_key_drops(rig: Rig) -> None:
    assert rig.send("overlay", tcp(REMOTE, A)).reason == 147


def test_fragments_and_broken_headers_drop(rig: Rig) -> None:
    assert rig.out(ipv4(A, B, TCP, b"\0" * 24, fragment=0x2000)).reason == FRAGMENT
    assert rig.out(ipv4(A, B, TCP, b"\0" * 24, fragment=0x0003)).reason == FRAGMENT
    assert rig.out(ipv4(A, B, TCP, b"\0" * 12)).reason == CT_INVALID_HEADER
    assert rig.out(ipv4(A, B, 47, b"\0" * 24)).reason == CT_UNKNOWN_L4
    broken = bytearray(tcp(A, B))
    broken[14] = 0x44
    assert rig.out(bytes(broken)).reason == INVALID_PACKET


def test_truncated_frames_never_pass(rig: Rig) -> None:
    frame = tcp(A, B)
    for length in range(34, len(frame)):
        assert rig.out(frame[:length]).verdict == SHOT
        assert rig.from_host(frame[:length]).verdict == SHOT


@pytest.mark.parametrize("where", ["224.0.0.251", "255.255.255.255", "127.0.0.1", "0.0.0.0"])
def test_no_way_leads_to_multicast_and_the_like(rig: Rig, where: str) -> None:
    assert rig.out(tcp(A, End(parse_ip(where), 2))).reason == UNROUTABLE


def test_other_protocols_are_counted_quietly(rig: Rig) -> None:
    outcome = rig.out(ipv6())
    assert (outcome.verdict, outcome.records) == (SHOT, [])
    assert rig.counters() == {(UNSUPPORTED_L3, 1): (1, len(ipv6()))}


def test_arp_may_announce_only_the_endpoints_own_address(rig: Rig) -> None:
    assert rig.out(arp(A.ip)).verdict == PASS
    assert rig.out(arp(STRANGER.ip)).verdict == SHOT
    assert rig.from_host(arp(NODE.ip)).verdict == PASS


def test_delivery_writes_the_derived_mac_addresses(rig: Rig) -> None:
    frame = rig.out(tcp(A, B)).frame
    assert (frame[:6], frame[6:12]) == (pod_mac(B.endpoint_id), node_mac(B.endpoint_id))
    assert frame[14:] == tcp(A, B)[14:]


def test_options_in_the_ip_header_move_the_ports(rig: Rig) -> None:
    plain = tcp(A, B, dport=8080)
    frame = bytearray(plain[:34] + b"\x01" * 8 + plain[34:])
    frame[14] = 0x47
    [record] = rig.out(bytes(frame)).records
    assert record.dst_port == 8080


def test_counters_by_reason_and_direction(rig: Rig) -> None:
    for _ in range(3):
        rig.out(tcp(A, B))
    rig.out(tcp(STRANGER, B))
    size = len(tcp(A, B))
    assert rig.counters() == {
        (FORWARDED, 0): (3, 3 * size),
        (FORWARDED, 1): (3, 3 * size),
        (INVALID_SOURCE_IP, 1): (1, size),
    }
