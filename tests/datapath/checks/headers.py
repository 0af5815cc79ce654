"""Headers that are unusual, wrong, or lie."""

from collections.abc import Iterator

from kilim.model.address import IPV6, mapped
from tests.datapath import packets
from tests.datapath.check import Check, Send
from tests.datapath.places import CIDR, FAMILIES, WORLD, A, B, changed, framed, tcp, udp

_TCP = packets.tcp(40000, 80)


def _one(name: str, frame: bytes, expected: str, program: str = "from_endpoint") -> Check:
    return Check(name, [Send(program, frame, expected)])


def checks() -> Iterator[Check]:
    yield from _ipv4()
    yield from _flags()
    yield from _ipv6()
    yield from _extensions()
    yield from _wrong_checksums()
    yield from _lengths()


def _v4(**wrong: int) -> bytes:
    return framed(A, 4, packets.ipv4(A.ipv4, B.ipv4, packets.TCP, _TCP, **wrong))  # type: ignore[arg-type]


def _v6(**wrong: int) -> bytes:
    return framed(A, 6, packets.ipv6(A.ipv6, B.ipv6, packets.TCP, _TCP, **wrong))  # type: ignore[arg-type]


def _ipv4() -> Iterator[Check]:
    for version in range(16):
        expected = "redirect" if version == 4 else "INVALID_PACKET"
        yield _one(f"IPv4 frame of version {version}", _v4(version=version), expected)
    for words in range(5):
        yield _one(f"IPv4 header of {words} words", _v4(header_words=words), "INVALID_PACKET")
    for words in range(1, 11):
        options = packets.ipv4(A.ipv4, B.ipv4, packets.TCP, _TCP, options=b"\x01" * 4 * words)
        yield _one(f"IPv4 with {words} words of options", framed(A, 4, options), "redirect")
    for words in range(6, 16):  # the header reaches into what is TCP's, of which too little is left
        yield _one(f"IPv4 header said to have {words} words", _v4(header_words=words), "CT_INVALID_HEADER")
    source_route = bytes((131, 11, 4)) + mapped(CIDR.ipv4)[12:] + mapped(WORLD.ipv4)[12:]
    layer = packets.ipv4(A.ipv4, B.ipv4, packets.TCP, _TCP, options=source_route)
    yield _one("IPv4 with a source route, which no stack here follows", framed(A, 4, layer), "redirect")


def _flags() -> Iterator[Check]:
    for name, bits in (("do not fragment", 0x4000), ("the reserved bit", 0x8000)):
        yield _one(f"IPv4 with {name}", _v4(fragment=bits), "redirect")


def _ipv6() -> Iterator[Check]:
    for version in range(16):
        expected = "redirect" if version == 6 else "INVALID_PACKET"
        yield _one(f"IPv6 frame of version {version}", _v6(version=version), expected)
    for name, at in (("source", 22), ("destination", 38)):
        for place in (A, B, WORLD):
            frame = changed(tcp(A, B, 6), at, mapped(place.ipv4))
            yield _one(f"IPv4 address {place.ipv4:x} in IPv6's form as {name}", frame, "INVALID_PACKET")
    yield _one("from the wire, to an endpoint's IPv4 address in IPv6's form",
               changed(tcp(WORLD, B, 6), 38, mapped(B.ipv4)), "INVALID_PACKET", "from_netdev")  # fmt: skip
    yield _one("from the wire, to somebody's IPv4 address in IPv6's form",
               changed(tcp(WORLD, B, 6), 38, mapped(WORLD.ipv4)), "pass", "from_netdev")  # fmt: skip
    yield _one("IPv4-compatible address as source", changed(tcp(A, B, 6), 22, bytes(12) + b"\x0a\xf4\x01\x02"),
               "INVALID_SOURCE_IP")  # fmt: skip
    layer = packets.ipv6(IPV6, B.ipv6, packets.TCP, _TCP)
    yield _one("IPv6 from the unspecified address", framed(A, 6, layer), "INVALID_SOURCE_IP")


def _with(*extensions: packets.Extension) -> bytes:
    return framed(A, 6, packets.ipv6(A.ipv6, B.ipv6, packets.TCP, _TCP, extensions=extensions))


def _extensions() -> Iterator[Check]:
    names = {0: "hop-by-hop", 43: "routing", 60: "destination", 51: "authentication"}
    for kind, name in names.items():
        yield _one(f"IPv6 with {name}", _with((kind, b"")), "redirect")
        yield _one(f"IPv6 with {name} of 38 bytes", _with((kind, bytes(38))), "redirect")
        yield _one(f"IPv6 with {name} behind destination options", _with((60, b""), (kind, b"")),
                   "redirect" if kind else "INVALID_EXTHDR")  # fmt: skip
        yield _one(f"IPv6 with {name} twice", _with((kind, b""), (kind, b"")),
                   "redirect" if kind else "INVALID_EXTHDR")  # fmt: skip
        frame = _with((kind, b""))
        yield _one(f"IPv6 with {name} that ends beyond the frame", changed(frame, 55, b"\xff"), "CT_INVALID_HEADER")
    for count in range(1, 9):
        expected = "redirect" if count <= 5 else "INVALID_EXTHDR"
        yield _one(f"IPv6 with {count} extension headers", _with(*[(60, b"")] * count), expected)
    yield _one("IPv6 in the order of RFC 8200", _with((0, b""), (60, b""), (43, b""), (51, b""), (60, b"")), "redirect")
    for kind, name in ((59, "no next header"), (50, "ESP"), (135, "mobility"), (139, "HIP"), (140, "shim6")):
        frame = framed(A, 6, packets.ipv6(A.ipv6, B.ipv6, kind, bytes(40), extensions=[(60, b"")]))
        yield _one(f"IPv6 with {name} behind options", frame, "CT_UNKNOWN_L4")


def _wrong_checksums() -> Iterator[Check]:
    """They are the receiving stack's: hardware checks them, and a pod's packets may not have theirs yet."""
    yield _one("IPv4 header with a wrong checksum", _v4(checksum_error=0x5555), "redirect")
    for family in FAMILIES:
        at = 34 if family == 4 else 54
        yield _one(
            f"TCP over IPv{family} with a wrong checksum", changed(tcp(A, B, family), at + 16, b"\xbe\xef"), "redirect"
        )
        yield _one(
            f"UDP over IPv{family} with a wrong checksum", changed(udp(A, B, family), at + 6, b"\xbe\xef"), "redirect"
        )
        yield _one(f"UDP over IPv{family} without a checksum", changed(udp(A, B, family), at + 6, b"\0\0"), "redirect")


def _lengths() -> Iterator[Check]:
    """A packet is what its frame has; the receiving stack cuts it to what it says."""
    for length in (0, 19, 20, 28, 39, 41, 1500, 65535):
        yield _one(f"IPv4 that says it has {length} bytes", _v4(total_length=length), "redirect")
    for length in (0, 1, 19, 21, 1460, 65535):
        yield _one(f"IPv6 that says it carries {length} bytes", _v6(payload_length=length), "redirect")
    for family in FAMILIES:
        for length in (0, 7, 9, 65535):
            payload = packets.udp(40000, 53, length=length)
            layer = packets.ip(A.ip(family), B.ip(family), packets.UDP, payload)
            yield _one(f"UDP over IPv{family} that says it has {length} bytes", framed(A, family, layer), "redirect")
        for words in (0, 4, 15):
            frame = changed(tcp(A, B, family), (34 if family == 4 else 54) + 12, bytes((words << 4,)))
            yield _one(f"TCP over IPv{family} that says it has {words} words", frame, "redirect")
        big = packets.udp(40000, 53, bytes(3000))
        layer = packets.ip(A.ip(family), B.ip(family), packets.UDP, big)
        yield _one(f"3,000 bytes of UDP over IPv{family} in one frame", framed(A, family, layer), "redirect")
