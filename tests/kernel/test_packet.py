"""Packets that no policy is asked about: forged, broken, foreign, and where the good ones go."""

import struct

import pytest

from kilim.agent.records import FORWARDED
from kilim.model.address import mapped, parse_ip
from kilim.model.mac import node_mac, pod_mac
from kilim.model.tables import TablesDelta
from tests.kernel.frames import (
    FAMILY,
    NODE,
    REMOTE,
    TCP,
    WORLD,
    A,
    B,
    End,
    arp,
    ip,
    neighbor,
    router_solicitation,
    tcp,
)
from tests.kernel.rig import PASS, SHOT, Rig

INVALID_SOURCE_MAC, INVALID_EXTHDR, FORBIDDEN_ICMPV6 = 130, 156, 176
INVALID_SOURCE_IP, INVALID_PACKET, CT_INVALID_HEADER, CT_UNKNOWN_L4 = 132, 134, 135, 137
UNROUTABLE, NO_LOCAL_ENDPOINT, UNSUPPORTED_L3 = 151, 152, 139

STRANGER = End(parse_ip("10.61.1.99"), 0)

both = pytest.mark.usefixtures("family")


@both
def test_source_must_be_the_endpoint_behind_the_interface(rig: Rig) -> None:
    assert rig.out(tcp(STRANGER, B)).reason == INVALID_SOURCE_IP
    assert rig.out(tcp(REMOTE, B)).reason == INVALID_SOURCE_IP
    rig.write(TablesDelta(), {A.ip: 77, B.ip: 1})
    assert rig.out(tcp(A, B)).reason == INVALID_SOURCE_IP


@both
@pytest.mark.parametrize("source", [NODE, A, REMOTE])
def test_the_wire_may_not_speak_for_us_or_for_the_tunnel(rig: Rig, source: End) -> None:
    assert rig.from_wire(tcp(source, B)).reason == INVALID_SOURCE_IP


def test_the_wire_passes_what_is_not_for_an_endpoint(rig: Rig) -> None:
    assert rig.from_wire(tcp(WORLD, NODE)).verdict == PASS
    assert rig.from_wire(router_solicitation()).verdict == PASS
    assert rig.from_wire(arp(WORLD)).verdict == PASS
    assert rig.counters() == {}


@both
def test_host_reaches_only_endpoints_of_the_interface(rig: Rig) -> None:
    assert rig.from_host(tcp(NODE, STRANGER)).reason == NO_LOCAL_ENDPOINT


@both
def test_overlay_without_a_tunnel_key_drops(rig: Rig) -> None:
    assert rig.send("overlay", tcp(REMOTE, A)).reason == 147


def test_broken_headers_drop(rig: Rig, family: str) -> None:
    assert rig.out(ip(A, B, TCP, b"\0" * 12)).reason == CT_INVALID_HEADER
    assert rig.out(ip(A, B, 47, b"\0" * 24)).reason == CT_UNKNOWN_L4
    assert rig.out(ip(A, B, 1 if family == "IPv6" else 58, b"\0" * 24)).reason == CT_UNKNOWN_L4
    broken = bytearray(tcp(A, B))
    broken[14] = 0x44
    assert rig.out(bytes(broken)).reason == INVALID_PACKET


@both
def test_truncated_frames_never_pass(rig: Rig) -> None:
    frame = tcp(A, B)
    for length in range(54 if FAMILY.is_ipv6 else 34, len(frame)):
        assert rig.out(frame[:length]).verdict == SHOT
        assert rig.from_host(frame[:length]).verdict == SHOT


@pytest.mark.parametrize(
    "where",
    [
        "224.0.0.251",
        "255.255.255.255",
        "127.0.0.1",
        "0.0.0.0",
        "ff02::1",
        "ff05::2",
        "fe80::1",
        "::1",
        "::",
        "::7f00:1",
    ],
)
def test_no_way_leads_to_multicast_and_the_like(rig: Rig, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FAMILY, "is_ipv6", ":" in where)
    rig = Rig(rig.datapath)
    assert rig.out(tcp(A, End(parse_ip(where), 2))).reason == UNROUTABLE


def test_other_protocols_are_counted_quietly(rig: Rig) -> None:
    outcome = rig.out(router_solicitation())
    assert (outcome.verdict, outcome.records) == (SHOT, [])
    assert rig.counters() == {(INVALID_SOURCE_IP, 1): (1, len(router_solicitation()))}
    assert rig.out(b"\x02" * 12 + b"\x88\xcc" + b"\0" * 40).records == []
    assert (UNSUPPORTED_L3, 1) in rig.counters()


def test_arp_may_announce_only_the_endpoints_own_address(rig: Rig) -> None:
    assert rig.out(arp(A)).verdict == PASS
    assert rig.out(arp(STRANGER)).verdict == SHOT
    assert rig.from_host(arp(NODE)).verdict == PASS


@both
def test_delivery_writes_the_derived_mac_addresses(rig: Rig) -> None:
    frame = rig.out(tcp(A, B)).frame
    assert (frame[:6], frame[6:12]) == (pod_mac(B.endpoint_id), node_mac(B.endpoint_id))
    assert frame[12:] == tcp(A, B)[12:]


def test_options_in_the_ip_header_move_the_ports(rig: Rig) -> None:
    plain = tcp(A, B, dport=8080)
    frame = bytearray(plain[:34] + b"\x01" * 8 + plain[34:])
    frame[14] = 0x47
    [record] = rig.out(bytes(frame)).records
    assert record.dst_port == 8080


@both
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


@both
def test_source_must_have_the_endpoints_mac_address(rig: Rig) -> None:
    frame = tcp(A, B)
    assert rig.out(frame[:6] + pod_mac(B.endpoint_id) + frame[12:]).reason == INVALID_SOURCE_MAC
    assert rig.out(frame).passed


@pytest.fixture
def ipv6_rig(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(FAMILY, "is_ipv6", True)
    return Rig(rig.datapath)


def test_ipv4_in_the_form_of_ipv6_is_no_address_on_a_wire(ipv6_rig: Rig) -> None:
    """In our maps it would be that of the IPv4 endpoint."""
    for source, destination in ((A, B), (B, A)):
        frame = bytearray(tcp(source, destination))
        frame[22:38] = mapped(source.ipv4)
        assert ipv6_rig.out(bytes(frame)).reason == INVALID_PACKET
        frame = bytearray(tcp(source, destination))
        frame[38:54] = mapped(destination.ipv4)
        assert ipv6_rig.out(bytes(frame)).reason == INVALID_PACKET


def with_extensions(frame: bytes, *types: int) -> bytes:
    """Eight bytes of each after the header."""
    payload, next_header = frame[54:], frame[20]
    for kind in reversed(types):
        payload, next_header = struct.pack(">BB6x", next_header, 0) + payload, kind
    return frame[:18] + struct.pack(">HB", len(payload), next_header) + frame[21:54] + payload


@pytest.mark.parametrize("types", [(0,), (60,), (43,), (0, 60, 43, 60), (51,)])
def test_extension_headers_move_the_ports(ipv6_rig: Rig, types: tuple[int, ...]) -> None:
    [record] = ipv6_rig.out(with_extensions(tcp(A, B, dport=8080), *types)).records
    assert (record.protocol, record.dst_port, record.reason) == (TCP, 8080, 0)


@pytest.mark.parametrize("types", [(60, 0), (60,) * 6])
def test_extension_headers_out_of_place_or_number_drop(ipv6_rig: Rig, types: tuple[int, ...]) -> None:
    assert ipv6_rig.out(with_extensions(tcp(A, B), *types)).reason == INVALID_EXTHDR


def test_extension_headers_that_end_beyond_the_packet_drop(ipv6_rig: Rig) -> None:
    frame = bytearray(with_extensions(tcp(A, B), 60))
    frame[55] = 255
    assert ipv6_rig.out(bytes(frame)).reason == CT_INVALID_HEADER
    assert ipv6_rig.out(with_extensions(tcp(A, B), 60, 60)[:62]).reason == INVALID_EXTHDR


@pytest.mark.parametrize("icmp_type", [135, 136])
def test_neighbor_discovery_may_announce_only_the_endpoints_own_address(ipv6_rig: Rig, icmp_type: int) -> None:
    own, other = (A.ip, B.ip) if icmp_type == 136 else (parse_ip("fe80::1"), parse_ip("fe80::1"))
    assert ipv6_rig.out(neighbor(A, icmp_type, own)).verdict == PASS
    if icmp_type == 136:
        assert ipv6_rig.out(neighbor(A, icmp_type, other)).verdict == SHOT
    assert ipv6_rig.out(neighbor(A, icmp_type, own, source_ip=B.ip)).verdict == SHOT
    assert ipv6_rig.out(neighbor(A, icmp_type, own, source_ip=parse_ip("fe80::2"))).verdict == SHOT
    assert ipv6_rig.from_host(neighbor(NODE, icmp_type, own)).verdict == PASS


@pytest.mark.parametrize("icmp_type", [130, 131, 132, 133, 134, 137, 143])
def test_router_and_group_messages_are_counted_quietly(ipv6_rig: Rig, icmp_type: int) -> None:
    outcome = ipv6_rig.out(neighbor(A, icmp_type, A.ip))
    assert (outcome.verdict, outcome.records) == (SHOT, [])
    assert set(ipv6_rig.counters()) == {(FORBIDDEN_ICMPV6, 1)}
