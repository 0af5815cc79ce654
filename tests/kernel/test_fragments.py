"""Fragments: later ones go where the first went, and nothing is put together of them that was not judged."""

import struct

import pytest

from kilim.agent.bpf.layout import FRAGMENT_VALUE
from kilim.model.tables import ALLOW
from tests.kernel.frames import (
    ACK,
    FAMILY,
    NODE,
    RST,
    SCTP,
    SYN,
    TCP,
    UDP,
    WORLD,
    A,
    B,
    End,
    icmp_error,
    icmp_protocol,
    ip,
    ipv6,
    udp,
)
from tests.kernel.rig import EGRESS, INGRESS, Rig, row
from tests.kernel.wire import PORT as TUNNEL_PORT

POLICY_DENIED, FRAGMENT, NO_FIRST, CT_INVALID_HEADER, ENCAPSULATION = 133, 157, 175, 135, 170
MORE = 0x2000

pytestmark = pytest.mark.usefixtures("family")


@pytest.fixture
def one_way(rig: Rig) -> Rig:
    """A may open to UDP port 53 and TCP port 80 of B; B to nobody."""
    rig.set_policy(A, {row(EGRESS, B.identity, UDP, 53, 16): ALLOW, row(EGRESS, B.identity, TCP, 80, 16): ALLOW})
    rig.set_policy(B, {row(INGRESS, A.identity): ALLOW})
    return rig


def first(source: End = A, destination: End = B, ports: tuple[int, int] = (40000, 53), number: int = 1) -> bytes:
    return ip(source, destination, UDP, struct.pack(">HHHH", *ports, 3000, 0) + b"x" * 1000, MORE, number)


def later(source: End = A, destination: End = B, number: int = 1, offset: int = 126, protocol: int = UDP) -> bytes:
    return ip(source, destination, protocol, b"y" * 500, offset, number)


def segment(flags: int, length: int = 40) -> bytes:
    """The beginning of a TCP segment."""
    return struct.pack(">HHIIBBHHH", 40000, 80, 1, 1, 0x50, flags, 1000, 0, 0)[:length].ljust(length, b"z")


def connections(rig: Rig) -> int:
    return len(rig.connections())


def test_later_fragments_follow_the_first(one_way: Rig) -> None:
    assert one_way.out(later()).reason == NO_FIRST
    assert one_way.out(first()).opened
    for offset in (126, 200):
        outcome = one_way.out(later(offset=offset))
        assert outcome.passed and not outcome.records
    assert one_way.out(later(number=2)).reason == NO_FIRST
    assert one_way.out(later(B, A)).reason == NO_FIRST
    assert connections(one_way) == 1


def test_fragmented_replies_are_replies(one_way: Rig) -> None:
    one_way.out(udp(A, B))
    assert one_way.out(first(B, A, (53, 40000))).passed
    assert one_way.out(later(B, A)).passed
    assert one_way.out(first(B, A, (54, 40000), number=2)).reason == POLICY_DENIED
    assert one_way.out(later(B, A, number=2)).reason == NO_FIRST


def test_what_policy_takes_back_stops_within_a_packet(one_way: Rig) -> None:
    assert one_way.out(first()).passed
    one_way.set_policy(B, {row(INGRESS, WORLD.identity): ALLOW})
    assert one_way.out(later()).reason == POLICY_DENIED


def test_the_last_first_fragment_counts(one_way: Rig) -> None:
    """Ids come again; a refused one takes nothing from who has passed."""
    assert one_way.out(first()).passed
    assert one_way.out(first(ports=(1, 22))).reason == POLICY_DENIED
    assert one_way.out(later()).passed
    one_way.set_policy(A, {row(EGRESS, B.identity, UDP, 54, 16): ALLOW})
    assert one_way.out(later()).reason == POLICY_DENIED
    assert one_way.out(first(ports=(1, 54))).passed
    assert one_way.out(later()).passed


def test_a_first_fragment_holds_the_header_that_is_judged(one_way: Rig) -> None:
    """Not bytes behind the packet that the frame goes on with, nor what a later fragment would put there."""
    cut = ip(A, B, TCP, segment(ACK, 8), MORE)
    assert one_way.out(cut + segment(ACK)[8:]).reason == FRAGMENT
    assert one_way.out(ip(A, B, UDP, b"\0" * 7, MORE) + b"\0" * 60).reason == FRAGMENT
    assert one_way.out(ip(A, B, TCP, segment(SYN), MORE)).opened
    for offset in (1, 2):
        assert one_way.out(later(offset=offset, protocol=TCP)).reason == FRAGMENT
    assert one_way.out(later(offset=5, protocol=TCP)).passed


def test_the_frame_may_end_before_the_packet_says(one_way: Rig) -> None:
    frame = ip(A, B, TCP, segment(SYN), MORE)
    assert one_way.out(frame[:-24]).reason == CT_INVALID_HEADER


def test_large_echoes(rig: Rig) -> None:
    protocol = icmp_protocol()
    rig.set_policy(A, {row(EGRESS, B.identity, protocol): ALLOW})
    request, reply = (128, 129) if FAMILY.is_ipv6 else (8, 0)
    assert rig.out(later(B, A, protocol=protocol)).reason == NO_FIRST
    assert rig.out(ip(A, B, protocol, struct.pack(">BBHHH", request, 0, 0, 7, 1) + b"x" * 992, MORE)).opened
    assert rig.out(later(protocol=protocol)).passed
    assert rig.out(ip(B, A, protocol, struct.pack(">BBHHH", reply, 0, 0, 7, 1) + b"x" * 992, MORE)).passed
    assert rig.out(later(B, A, protocol=protocol)).passed
    assert connections(rig) == 1


def test_sctp_and_resets(rig: Rig) -> None:
    assert rig.out(ip(A, B, SCTP, struct.pack(">HHII", 40000, 80, 0, 0) + b"x" * 988, MORE)).opened
    assert rig.out(later(protocol=SCTP)).passed
    rig.out(ip(A, B, TCP, segment(SYN), 0, 2))
    rig.out(ip(A, B, TCP, segment(RST, 1000), MORE, 3))
    assert rig.out(later(number=3, protocol=TCP)).passed, "what is on its way after a reset"


def test_from_the_wire_and_from_the_node(rig: Rig) -> None:
    rig.set_policy(A, {row(INGRESS, WORLD.identity, UDP, 53, 16): ALLOW})
    assert rig.from_wire(later(WORLD, A)).reason == NO_FIRST
    assert rig.from_wire(first(WORLD, A, (1, 22))).reason == POLICY_DENIED
    assert rig.from_wire(first(WORLD, A)).passed and rig.from_wire(later(WORLD, A)).passed
    assert rig.from_host(later(WORLD, A, number=2)).reason == NO_FIRST
    assert rig.from_host(first(WORLD, A, number=2)).passed and rig.from_host(later(WORLD, A, number=2)).passed


def test_nobody_goes_on_with_what_another_began(one_way: Rig) -> None:
    assert one_way.out(first()).passed
    spoofed = later(B._replace(ipv4=A.ipv4), B)  # with B's link address
    assert one_way.out(spoofed).reason == 130
    forged = first(A, B, (1, 53), number=9)
    assert one_way.out(forged[:6] + B.mac + forged[12:]).reason == 130
    assert one_way.out(later(number=9)).reason == NO_FIRST, "who is not believed is not remembered"


def test_no_frames_for_the_tunnel_in_fragments(rig: Rig) -> None:
    """The stack of the node would put them together and take them for another node's."""
    assert rig.out(first(A, NODE, (1, TUNNEL_PORT))).reason == ENCAPSULATION
    assert rig.out(later(A, NODE)).reason == NO_FIRST
    assert rig.out(first(A, NODE)).passed and rig.out(later(A, NODE)).passed


def test_errors_about_fragments(rig: Rig) -> None:
    """What quotes a first fragment is about its connection; of a later one nobody can say."""
    rig.set_policy(A, {row(EGRESS, 0): ALLOW})
    rig.out(first())
    assert rig.from_wire(icmp_error(WORLD, A, first(), 11, quoted=16)).passed
    quoted = ip(A, B, UDP, struct.pack(">HHHH", 40000, 53, 8, 0), 126)
    assert rig.from_wire(icmp_error(WORLD, A, quoted, 11, quoted=16)).reason == POLICY_DENIED


def test_first_fragments_are_remembered_for_a_while(one_way: Rig) -> None:
    one_way.out(first(number=770))
    columns, [listed] = one_way.tables.dump("frag")
    found = dict(zip(columns, listed, strict=True))
    assert (found["protocol"], found["id"]) == (str(UDP), "770") and 60 <= int(found["expires_s"]) <= 65
    assert A.text in found["source"] and found["source"].endswith(":40000") and found["destination"].endswith(":53")
    table = one_way.datapath.maps["fragments"]
    keys, values = table.read()
    assert len(values) == 1 and values.dtype == FRAGMENT_VALUE
    values["expires"] = 0
    table.update(keys, values)
    assert one_way.out(later(number=770)).reason == NO_FIRST
    assert not one_way.tables.dump("frag")[1] and one_way.tables.dump("frag", raw=True)[1]


def test_a_fragment_header_of_a_whole_packet(one_way: Rig) -> None:
    """RFC 6946; and one fragment header is enough."""
    if not FAMILY.is_ipv6:
        return
    header = struct.pack(">BBHI", UDP, 0, 0, 5)
    whole = struct.pack(">HHHH", 40000, 53, 8, 0)
    assert one_way.out(ipv6(A, B, 44, header + whole)).opened
    assert not len(one_way.datapath.maps["fragments"].read()[0])
    twice = struct.pack(">BBHI", 44, 0, 1, 5) + struct.pack(">BBHI", UDP, 0, 1, 5)
    assert one_way.out(ipv6(A, B, 44, twice + whole * 8)).reason == FRAGMENT
