"""Masquerade of fragments: both ways, with the checksum of the whole right."""

import struct

import pytest

from kilim.model.address import from_mapped
from tests.kernel.frames import FAMILY, NODE, SCTP, UDP, WORLD, A, End, ip, udp
from tests.kernel.rig import Outcome, Rig
from tests.kernel.test_nat import (
    _masquerading as _masquerading,
)
from tests.kernel.test_nat import (
    is_node_port,
    leaves,
    pseudo_header,
    summed,
    total,
)
from tests.kernel.test_nat import (
    nat as nat,
)

pytestmark = pytest.mark.usefixtures("family")


@pytest.mark.parametrize("protocol", [UDP, SCTP])
def test_later_fragments_follow_the_first_both_ways(nat: Rig, protocol: int) -> None:
    """What is put together of them has the checksum of the whole."""
    body = struct.pack(">HHHH", 40000, 53, 2008, 0) + bytes(range(250)) * 8
    whole = summed(ip(A, WORLD, protocol, body))[34 + 20 * FAMILY.is_ipv6 :]
    out = [pieces(nat.out(frame)) for frame in fragments(A, WORLD, protocol, whole)]
    assert {each[:2] for each in out} == {(NODE.ip, WORLD.ip)}
    sent = b"".join(each[2] for each in out)
    port = struct.unpack(">H", sent[:2])[0]
    assert sent[8:] == whole[8:]
    if protocol == UDP:
        assert is_node_port(port) and total(pseudo_header(out[0][3], UDP, len(sent)) + sent) == 0xFFFF
    answer = struct.pack(">HH", 53, port) + body[4:]
    whole = summed(ip(WORLD, NODE, protocol, answer))[34 + 20 * FAMILY.is_ipv6 :]
    back = [pieces(nat.from_wire(frame)) for frame in fragments(WORLD, NODE, protocol, whole)]
    assert {each[:2] for each in back} == {(WORLD.ip, A.ip)}
    got = b"".join(each[2] for each in back)
    assert struct.unpack(">HH", got[:4]) == (53, 40000) and got[8:] == whole[8:]
    if protocol == UDP:
        assert total(pseudo_header(back[0][3], UDP, len(got)) + got) == 0xFFFF


def fragments(source: End, destination: End, protocol: int, whole: bytes) -> list[bytes]:
    frames = [
        ip(source, destination, protocol, whole[at : at + 800], at // 8 | (at + 800 < len(whole)) << 13)
        for at in range(0, len(whole), 800)
    ]
    if FAMILY.is_ipv6:
        return frames
    return [frame[:24] + struct.pack(">H", 0xFFFF - total(frame[14:34])) + frame[26:] for frame in frames]


def pieces(outcome: Outcome) -> tuple[int, int, bytes, bytes]:
    """Source, destination, what the fragment carries, and the headers that the pseudo header is made of."""
    assert outcome.passed, outcome
    packet = outcome.frame[14:]
    if not FAMILY.is_ipv6:
        assert total(packet[:20]) == 0xFFFF
        return *(int.from_bytes(packet[at : at + 4], "big") for at in (12, 16)), packet[20:], packet[:20]  # type: ignore[return-value]
    return *(from_mapped(packet[at : at + 16]) for at in (8, 24)), packet[48:], packet[:40]  # type: ignore[return-value]


def test_fragments_to_the_node_itself_are_its_own(nat: Rig) -> None:
    leaves(nat, udp(A, WORLD))
    for frame in fragments(WORLD, NODE, UDP, struct.pack(">HHHH", 53, 53, 1608, 0) + bytes(1600)):
        assert nat.from_wire(frame).verdict == 0
    assert not len(nat.datapath.maps["fragments"].read()[0])
