"""Frames that end before their headers do, at every byte behind the IP header: a test run takes no less."""

from collections.abc import Iterator

from tests.datapath import packets
from tests.datapath.check import Check, Send
from tests.datapath.checks.protocols import WAYS
from tests.datapath.places import FAMILIES, A, B, framed, icmp_protocol, packet

_L4 = {
    "TCP": (packets.TCP, packets.tcp(40000, 80, data=b"x" * 4), 20),
    "UDP": (packets.UDP, packets.udp(40000, 53), 8),
    "SCTP": (packets.SCTP, packets.sctp(40000, 80), 8),
}


def checks() -> Iterator[Check]:
    for program, (source, passes, tunnel) in WAYS.items():
        for family in FAMILIES:
            layers = {**_L4, "ICMP": (icmp_protocol(family), packets.icmp(8 if family == 4 else 128), 8)}
            for name, (protocol, payload, needed) in layers.items():
                frame, ip_end = packet(source, B, family, protocol, payload), 34 if family == 4 else 54
                steps = [
                    Send(program, frame[:end], passes if end >= ip_end + needed else "CT_INVALID_HEADER", tunnel)
                    for end in range(ip_end, len(frame) + 1)
                ]
                for step in steps:
                    yield Check(f"{program}: {name} over IPv{family}, cut to {len(step.frame)} bytes", [step])
    yield from _options()
    yield from _extensions()


def _options() -> Iterator[Check]:
    layer = packets.ipv4(A.ipv4, B.ipv4, packets.TCP, packets.tcp(40000, 80), options=b"\x01" * 40)
    frame = framed(A, 4, layer)
    for end in (34, 60, 73, 74, 81, 93, 94):
        expected = "redirect" if end == 94 else "CT_INVALID_HEADER"
        yield Check(
            f"IPv4 with 40 bytes of options, cut to {end} bytes", [Send("from_endpoint", frame[:end], expected)]
        )


def _extensions() -> Iterator[Check]:
    layer = packets.ipv6(
        A.ipv6, B.ipv6, packets.TCP, packets.tcp(40000, 80), extensions=[(60, b""), (packets.AUTHENTICATION, bytes(10))]
    )
    frame = framed(A, 6, layer)
    for end in range(54, len(frame) + 1):
        if end < 64:
            expected = "INVALID_EXTHDR"
        else:
            expected = "redirect" if end == len(frame) else "CT_INVALID_HEADER"
        yield Check(f"two extension headers, cut to {end} bytes", [Send("from_endpoint", frame[:end], expected)])
