"""Masquerade: what leaves the node, what comes back to the pod, and that every checksum of it is right."""

import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import pytest

from kilim.agent.bpf.datapath import Datapath, Settings, load_objects, remove_all
from kilim.agent.bpf.ipmasq import write_exempt_cidrs
from kilim.agent.bpf.rows import endpoint_keys
from kilim.model.address import from_mapped, without_host_bits
from kilim.model.tables import ALLOW, EndpointValue, TablesDelta
from tests.kernel.frames import (
    ACK,
    CIDR,
    FAMILY,
    NODE,
    OTHER_NODE,
    REMOTE,
    RST,
    SYN,
    TCP,
    UDP,
    WORLD,
    A,
    B,
    End,
    icmp,
    icmp_error,
    icmp_protocol,
    sctp,
    tcp,
    udp,
)
from tests.kernel.rig import EGRESS, Outcome, Rig, row
from tests.kernel.wire import PORT

FIRST, LAST = 10000, 10003
NO_MAPPING, UNSUPPORTED, ENCAPSULATION = 167, 168, 170

pytestmark = pytest.mark.usefixtures("family")


class Packet(NamedTuple):
    source: int
    destination: int
    protocol: int
    l4: bytes

    @property
    def ports(self) -> tuple[int, int]:
        return struct.unpack(">HH", self.l4[:4])  # type: ignore[return-value]

    @property
    def number(self) -> int:
        """Of an echo."""
        return int.from_bytes(self.l4[4:6], "big")


def total(octets: bytes) -> int:
    octets += b"\0" * (len(octets) % 2)
    value = sum(struct.unpack(f">{len(octets) // 2}H", octets))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return int(value)


def pseudo_header(packet: bytes, protocol: int, length: int) -> bytes:
    if packet[0] >> 4 == 4:
        return packet[12:20] + struct.pack(">BBH", 0, protocol, length)
    return packet[8:40] + struct.pack(">IHBB", length, 0, 0, protocol)


CHECKSUM_AT = {TCP: 16, UDP: 6, 1: 2, 58: 2}


def read(packet: bytes, whole: bool = True) -> Packet:
    """From the IP header on. Fails where a checksum is wrong; `whole=False`: what an ICMP error quotes."""
    if packet[0] >> 4 == 4:
        assert total(packet[:20]) == 0xFFFF
        protocol, l4 = packet[9], packet[20 : None if not whole else struct.unpack(">H", packet[2:4])[0]]
        ends = [int.from_bytes(packet[at : at + 4], "big") for at in (12, 16)]
    else:
        protocol, l4 = packet[6], packet[40:]
        ends = [from_mapped(packet[at : at + 16]) for at in (8, 24)]
    if whole and protocol in CHECKSUM_AT and not is_unsummed(packet, protocol, l4):
        before = b"" if protocol == 1 else pseudo_header(packet, protocol, len(l4))
        assert total(before + l4) == 0xFFFF, "checksum"
    return Packet(*ends, protocol, l4)


def is_unsummed(packet: bytes, protocol: int, l4: bytes) -> bool:
    return packet[0] >> 4 == 4 and protocol == UDP and l4[6:8] == b"\0\0"


def summed(frame: bytes) -> bytes:
    """With the checksums that its sender would give it."""
    packet = bytearray(frame[14:])
    if packet[0] >> 4 == 4:
        packet[10:12] = b"\0\0"
        packet[10:12] = struct.pack(">H", 0xFFFF - total(bytes(packet[:20])))
        protocol, start = packet[9], 20
    else:
        protocol, start = packet[6], 40
    if protocol in CHECKSUM_AT:
        at = start + CHECKSUM_AT[protocol]
        packet[at : at + 2] = b"\0\0"
        before = b"" if protocol == 1 else pseudo_header(bytes(packet), protocol, len(packet) - start)
        checksum = 0xFFFF - total(before + bytes(packet[start:]))
        packet[at : at + 2] = struct.pack(">H", checksum or (0xFFFF if protocol == UDP else 0))
    return frame[:14] + bytes(packet)


@pytest.fixture(scope="module")
def _masquerading(name_prefix: str, settings: Settings) -> Iterator[Datapath]:
    root = f"/sys/fs/bpf/{name_prefix}-nat"
    try:
        datapath = load_objects(
            replace(
                settings,
                masquerade_ipv4=True,
                masquerade_ipv6=True,
                masquerade_ports=(FIRST, LAST),
                masquerade_exempts=True,
            ),
            root,
        )
        yield datapath
        datapath.close()
    finally:
        remove_all(root)


@pytest.fixture
def nat(_masquerading: Datapath) -> Rig:
    return Rig(_masquerading)


def left(outcome: Outcome) -> Packet:
    assert outcome.passed, outcome
    return read(outcome.frame[14:])


def leaves(rig: Rig, frame: bytes) -> Packet:
    """A pod sends, and what of it is on the wire."""
    return left(rig.out(summed(frame)))


def arrives(rig: Rig, frame: bytes) -> Packet:
    """From the wire, and what of it the pod gets."""
    outcome = rig.from_wire(summed(frame))
    assert outcome.verdict == 7, outcome
    return read(outcome.frame[14:])


def is_node_port(port: int) -> bool:
    return FIRST <= port <= LAST


def test_tcp_both_ways(nat: Rig) -> None:
    out = leaves(nat, tcp(A, WORLD))
    port = out.ports[0]
    assert out[:3] == (NODE.ip, WORLD.ip, TCP) and out.ports == (port, 80) and is_node_port(port)
    back = arrives(nat, tcp(WORLD, NODE, SYN | ACK, 80, port))
    assert back[:2] == (WORLD.ip, A.ip) and back.ports == (80, 40000)
    assert leaves(nat, tcp(A, WORLD, ACK)).ports == (port, 80)
    assert [each["source"] for each in nat.connections()] == [connection_end(A, 40000)]


def connection_end(end: End, port: int) -> str:
    return f"[{end.text}]:{port}" if FAMILY.is_ipv6 else f"{end.text}:{port}"


def test_udp_both_ways(nat: Rig) -> None:
    out = leaves(nat, udp(A, WORLD))
    assert out[:3] == (NODE.ip, WORLD.ip, UDP) and is_node_port(out.ports[0])
    back = arrives(nat, udp(WORLD, NODE, 53, out.ports[0]))
    assert back[:2] == (WORLD.ip, A.ip) and back.ports == (53, 40000)


def test_nothing_with_the_address_of_the_node_goes_to_a_tunnel(nat: Rig) -> None:
    """At another address of a node it would be taken for what this one vouches for."""
    for end in (WORLD, CIDR):
        assert nat.out(summed(udp(A, end, dport=PORT))).reason == ENCAPSULATION
        assert leaves(nat, udp(A, end, dport=PORT + 1)).source == NODE.ip
        assert leaves(nat, tcp(A, end, dport=PORT)).source == NODE.ip
    write_exempt_cidrs(nat.datapath.maps["ipmasq"], [CIDR.host])
    assert left(nat.out(summed(udp(A, CIDR, dport=PORT)))).source == A.ip, "exempt, so it is not"


def test_udp_without_a_checksum_stays_without(nat: Rig) -> None:
    outcome = nat.out(udp(A, WORLD))  # of IPv6 it would be a broken packet, and stays one
    offset = 14 + (40 if FAMILY.is_ipv6 else 20)
    assert outcome.passed and outcome.frame[offset + 6 : offset + 8] == b"\0\0"


def test_echo_by_its_id(nat: Rig) -> None:
    out = leaves(nat, icmp(A, WORLD, number=7))
    assert out[:3] == (NODE.ip, WORLD.ip, icmp_protocol()) and is_node_port(out.number)
    back = arrives(nat, icmp(WORLD, NODE, 0, out.number))
    assert back[:2] == (WORLD.ip, A.ip) and back.number == 7


def test_sctp_keeps_its_port(nat: Rig) -> None:
    assert leaves(nat, sctp(A, WORLD)).ports == (40000, 80)
    assert arrives(nat, sctp(WORLD, NODE, 80, 40000))[:2] == (WORLD.ip, A.ip)
    assert nat.out(sctp(B, WORLD)).reason == NO_MAPPING


def test_one_port_of_several_pods(nat: Rig) -> None:
    ports = {end: leaves(nat, udp(end, WORLD)).ports[0] for end in (A, B)}
    assert ports[A] != ports[B]
    for end, port in ports.items():
        assert arrives(nat, udp(WORLD, NODE, 53, port)).destination == end.ip


def test_a_full_range_drops_with_its_reason_and_ports_come_back(nat: Rig) -> None:
    taken = {leaves(nat, tcp(A, WORLD, sport=40000 + number)).ports[0] for number in range(4)}
    assert taken == set(range(FIRST, LAST + 1))
    outcome = nat.out(summed(tcp(A, WORLD, sport=41000)))
    assert outcome.reason == NO_MAPPING
    assert outcome.records[-1].src_ip == A.ip, "recorded as the pod sent it"
    assert leaves(nat, tcp(A, WORLD, sport=41000, dport=81)).ports[1] == 81, "towards another port all are free"
    nat.forget_connections()
    assert is_node_port(leaves(nat, tcp(A, WORLD, sport=41000)).ports[0]), "no connection holds them any more"


@pytest.mark.parametrize("lost", [0, 1])
def test_half_a_mapping_is_made_whole(nat: Rig, lost: int) -> None:
    port = leaves(nat, tcp(A, WORLD)).ports[0]
    arrives(nat, tcp(WORLD, NODE, SYN | ACK, 80, port))
    snat = nat.datapath.maps["snat"]
    keys, _ = snat.read()
    assert len(keys) == 2
    assert snat.delete(keys[keys["direction"] == lost]) == 1
    assert leaves(nat, tcp(A, WORLD, ACK)).ports == (port, 80)
    assert arrives(nat, tcp(WORLD, NODE, ACK, 80, port)).destination == A.ip


@pytest.mark.parametrize("kind", ["TCP", "UDP"])
def test_a_forgotten_connection_goes_on_with_the_address_of_the_node(nat: Rig, kind: str) -> None:
    """Also where the server is the first to speak, and may as well have opened a connection."""
    if kind == "TCP":
        sent, answer, port_to = tcp(A, WORLD, ACK), partial(tcp, WORLD, NODE, ACK), 80
    else:
        sent, answer, port_to = udp(A, WORLD), partial(udp, WORLD, NODE), 53
    port = leaves(nat, sent).ports[0]
    arrives(nat, answer(port_to, port))
    for order in ((answer, sent), (sent, answer)):
        nat.forget_connections()
        for frame in (*order, *order):
            if frame is sent:
                out = leaves(nat, frame)
                assert (out.source, out.ports) == (NODE.ip, (port, port_to)), order
            else:
                assert arrives(nat, answer(port_to, port)).destination == A.ip


def test_what_came_to_the_pod_itself_is_answered_by_itself(nat: Rig) -> None:
    assert nat.from_wire(summed(tcp(WORLD, A, SYN, 5000, 8000))).passed
    out = leaves(nat, tcp(A, WORLD, SYN | ACK, 8000, 5000))
    assert (out.source, out.ports) == (A.ip, (8000, 5000))
    assert not len(nat.datapath.maps["snat"].read()[0])


def test_the_next_endpoint_with_the_address_does_not_inherit(nat: Rig) -> None:
    port = leaves(nat, udp(A, WORLD)).ports[0]
    nat.write(TablesDelta(endpoints={A.ip: EndpointValue(99, A.identity)}))
    assert nat.from_wire(summed(udp(WORLD, NODE, 53, port))).verdict == 0, "the node's own"
    next_one = End(A.ipv4, A.identity, 99)
    again = leaves(nat, udp(next_one, WORLD)).ports[0]
    assert arrives(nat, udp(WORLD, NODE, 53, again)).destination == A.ip


def test_nothing_is_left_of_an_endpoint_that_is_gone(nat: Rig) -> None:
    port = leaves(nat, udp(A, WORLD)).ports[0]
    nat.datapath.maps["endpoints"].delete(endpoint_keys([A.ip]))
    assert nat.from_wire(summed(udp(WORLD, NODE, 53, port))).verdict == 0


@pytest.mark.parametrize("sender", [WORLD, CIDR])
def test_an_error_about_a_mapped_packet_comes_to_the_pod(nat: Rig, sender: End) -> None:
    """Also from a router on the way, and although the pod's policy allows no ICMP."""
    nat.set_policy(A, {row(EGRESS, WORLD.identity, UDP, 53, 16): ALLOW})
    sent = summed(udp(A, WORLD))
    out = nat.out(sent)
    assert out.passed
    got = arrives(nat, icmp_error(sender, NODE, out.frame))
    assert got.destination == A.ip
    assert inner(got).source == A.ip and inner(got).destination == WORLD.ip
    assert got.l4[8:] == sent[14 : 14 + len(got.l4[8:])], "it quotes what the pod has sent"


def inner(error: Packet) -> Packet:
    return read(error.l4[8:], whole=False)


def test_errors_about_tcp_and_echo(nat: Rig) -> None:
    for frame in (tcp(A, WORLD), icmp(A, WORLD)):
        sent = summed(frame)
        got = arrives(nat, icmp_error(WORLD, NODE, nat.out(sent).frame, 11))
        assert inner(got).source == A.ip and got.l4[8:] == sent[14 : 14 + len(got.l4[8:])]


def test_an_error_of_the_pod_about_a_reply(nat: Rig) -> None:
    port = leaves(nat, udp(A, WORLD)).ports[0]
    reply = summed(udp(WORLD, NODE, 53, port))
    delivered = nat.from_wire(reply)
    out = leaves(nat, icmp_error(A, WORLD, delivered.frame))
    assert out[:2] == (NODE.ip, WORLD.ip)
    assert out.l4[8:] == reply[14 : 14 + len(out.l4[8:])], "it quotes what the world has sent"


def test_errors_and_other_icmp_without_a_mapping(nat: Rig) -> None:
    assert nat.out(summed(icmp_error(A, WORLD, udp(WORLD, A)))).reason == UNSUPPORTED
    assert nat.out(summed(icmp(A, WORLD, 13))).reason == UNSUPPORTED
    assert nat.out(summed(icmp(A, WORLD, 0))).reason == NO_MAPPING
    assert nat.from_wire(summed(icmp_error(WORLD, NODE, udp(NODE, WORLD)))).verdict == 0


def test_policy_sees_the_pods_own_packet(nat: Rig) -> None:
    nat.set_policy(A, {row(EGRESS, WORLD.identity, UDP, 53, 16): ALLOW})
    assert nat.out(summed(udp(A, WORLD, dport=54))).reason == 133
    port = leaves(nat, udp(A, WORLD)).ports[0]
    assert arrives(nat, udp(WORLD, NODE, 53, port)).destination == A.ip, "a reply, although nothing allows ingress"
    assert nat.from_wire(summed(udp(WORLD, NODE, 55, port))).verdict == 0, "from another port it is the node's"


def test_replies_to_what_came_to_the_pods_own_address(nat: Rig) -> None:
    assert nat.from_wire(summed(tcp(WORLD, A, SYN, 50000, 80))).passed
    out = leaves(nat, tcp(A, WORLD, SYN | ACK, 80, 50000))
    assert out[:2] == (A.ip, WORLD.ip) and out.ports == (80, 50000)
    assert nat.from_wire(summed(udp(WORLD, A, 50000, 80))).passed
    assert leaves(nat, icmp_error(A, WORLD, udp(WORLD, A, 50000, 80)))[:2] == (A.ip, WORLD.ip)
    assert not len(nat.datapath.maps["snat"].read()[0])


def test_who_is_not_masqueraded(nat: Rig) -> None:
    for end in (B, REMOTE, OTHER_NODE):
        assert leaves(nat, udp(A, end)).source == A.ip
    assert leaves(nat, udp(A, CIDR)).source == NODE.ip


def test_exempt_prefixes(nat: Rig) -> None:
    ipmasq, prefix_len = nat.datapath.maps["ipmasq"], CIDR.host[1] - 8
    write_exempt_cidrs(ipmasq, [(without_host_bits(CIDR.ip, prefix_len), prefix_len)])
    assert leaves(nat, udp(A, CIDR)).source == A.ip
    assert leaves(nat, udp(A, WORLD)).source == NODE.ip
    write_exempt_cidrs(ipmasq, [WORLD.host])
    assert leaves(nat, tcp(A, CIDR)).source == NODE.ip
    assert leaves(nat, tcp(A, WORLD)).source == A.ip


def test_ports_of_the_nodes_own_sockets_are_left_alone(nat: Rig) -> None:
    family = socket.AF_INET6 if FAMILY.is_ipv6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as bound, socket.socket(family, socket.SOCK_STREAM) as listening:
        if FAMILY.is_ipv6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(("", FIRST + 1))
        listening.bind(("", FIRST + 2))
        listening.listen()
        for send, used in ((udp, FIRST + 1), (tcp, FIRST + 2)):
            taken = {leaves(nat, send(A, WORLD, sport=40000 + number)).ports[0] for number in range(3)}
            assert taken == set(range(FIRST, LAST + 1)) - {used}
            assert nat.out(summed(send(A, WORLD, sport=41000))).reason == NO_MAPPING


def test_reset_frees_nothing_early(nat: Rig) -> None:
    """What closes keeps its port until its connection goes."""
    port = leaves(nat, tcp(A, WORLD)).ports[0]
    arrives(nat, tcp(WORLD, NODE, RST | ACK, 80, port))
    assert {leaves(nat, tcp(A, WORLD, sport=42000 + number)).ports[0] for number in range(3)}.isdisjoint({port})
    assert nat.out(summed(tcp(A, WORLD, sport=43000))).reason == NO_MAPPING
