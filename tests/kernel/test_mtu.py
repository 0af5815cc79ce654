"""Nothing is fragmented: who sends what does not fit is told what does."""

import errno
import socket
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kilim.model.address import format_ip, host_length, mapped
from tests.kernel.frames import FAMILY, ICMPV6, NODE, REMOTE, UDP, WORLD, A, B, End, ip
from tests.kernel.rig import PASS, REDIRECT, Outcome, Rig
from tests.kernel.test_wire import transfer
from tests.kernel.wire import OVERHEAD, PORT, Namespace, Node, Pod, Wire

MTU = 1400
FRAG_NEEDED = 157
PMTUDISC_DO = 2
MTU_DISCOVER = {"IPv4": (socket.IPPROTO_IP, 10), "IPv6": (socket.IPPROTO_IPV6, 23)}
LEARNED_MTU = {"IPv4": (socket.IPPROTO_IP, 14), "IPv6": (socket.IPPROTO_IPV6, 24)}

both_tunnels = pytest.mark.parametrize("outer", ["IPv4", "IPv6"])


@pytest.fixture
def narrow() -> Iterator[Namespace]:
    """Its loopback device is what the rig has for the underlay and the tunnel."""
    namespace = Namespace()
    namespace.netlink(lambda ipr: ipr.link("set", index=1, mtu=MTU, state="up"))
    yield namespace
    namespace.close()


def datagram(source: End, destination: End, length: int) -> bytes:
    """`length` bytes from the IP header on."""
    header = len(ip(source, destination, UDP, b"")) - 14
    udp = struct.pack(">HHHH", 40000, 53, length - header, 0)
    return ip(source, destination, UDP, udp + bytes(length - header - len(udp)))


def checksum(data: bytes) -> int:
    total = sum(word for (word,) in struct.iter_unpack(">H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def told(outcome: Outcome, about: bytes, family: str) -> int:
    """The MTU in the message, which is right in all else."""
    assert (outcome.verdict, outcome.reason) == (REDIRECT, FRAG_NEEDED)
    frame = outcome.frame
    assert frame[:6] == A.mac
    if family == "IPv4":
        header, message = frame[14:34], frame[34:]
        version, length, fragment, ttl, protocol, source, destination = struct.unpack("!BxHxxHBBxx4s4s", header)
        assert (version, length, fragment, ttl, protocol) == (0x45, len(frame) - 14, 0x4000, 64, 1)
        assert (source, destination) == (mapped(NODE.ip)[12:], mapped(A.ip)[12:])
        assert checksum(header) == 0 and checksum(message) == 0
        kind, code, unused, mtu = struct.unpack("!BBxxHH", message[:8])
        assert (kind, code, unused) == (3, 4, 0)
    else:
        header, message = frame[14:54], frame[54:]
        version, length, protocol, hops = struct.unpack("!IHBB", header[:8])
        assert (version, length, protocol, hops) == (6 << 28, len(message), ICMPV6, 64)
        assert header[8:] == mapped(NODE.ip) + mapped(A.ip)
        assert checksum(header[8:] + struct.pack("!II", length, protocol) + message) == 0
        kind, code, mtu = struct.unpack("!BBxxI", message[:8])
        assert (kind, code) == (2, 0)
    assert len(message) == 8 + 256 and message[8:] == about[14 : 14 + 256]
    return int(mtu)


@pytest.mark.parametrize("destination", [REMOTE, WORLD], ids=["tunnel", "world"])
def test_who_sends_too_much_is_told_what_fits(family: str, rig: Rig, narrow: Namespace, destination: End) -> None:
    for length in (MTU + 1, 1500, 3000):
        frame = datagram(A, destination, length)
        assert told(narrow.run(lambda f=frame: rig.out(f)), frame, family) == MTU  # type: ignore[misc]
    assert rig.counters()[FRAG_NEEDED, 1][0] == 3


def test_what_fits_passes(family: str, rig: Rig, narrow: Namespace) -> None:
    for destination in (REMOTE, WORLD):
        outcome = narrow.run(partial(rig.out, datagram(A, destination, MTU)))
        assert (outcome.verdict, outcome.reason) == (REDIRECT, 0)


def test_between_pods_of_a_node_and_with_the_node_itself_all_fits(family: str, rig: Rig, narrow: Namespace) -> None:
    assert narrow.run(partial(rig.out, datagram(A, B, 3000))).verdict == REDIRECT
    assert narrow.run(partial(rig.out, datagram(A, NODE, 3000))).verdict == PASS


def test_what_policy_refuses_is_told_nothing(family: str, rig: Rig, narrow: Namespace) -> None:
    rig.set_policy(A, {})
    outcome = narrow.run(partial(rig.out, datagram(A, REMOTE, 1500)))
    assert (outcome.verdict, outcome.reason) == (2, 133)


@pytest.fixture
def outer() -> str:
    """The family of the tunnel."""
    return "IPv4"


@pytest.fixture
def wire(bpf_root: Path, outer: str) -> Iterator[Wire]:
    built = Wire(bpf_root, outer=outer)
    yield built
    built.close()


def narrow_tunnel(node: Node, mtu: int) -> None:
    node.namespace.netlink(lambda ipr: ipr.link("set", index=node.tunnel, mtu=mtu))


def fragments(node: Node) -> int:
    """That the node has made, or has refused to make."""

    def read() -> int:
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        names, values = ([line.split() for line in lines if line.startswith("Ip:")])[:2]
        counted = dict(zip(names[1:], map(int, values[1:]), strict=True))
        of_ipv6 = dict(line.split() for line in Path("/proc/thread-self/net/snmp6").read_text().splitlines())
        numbers = (counted["FragCreates"], counted["FragFails"], of_ipv6["Ip6FragCreates"], of_ipv6["Ip6FragFails"])
        return sum(map(int, numbers))

    return node.namespace.run(read)


def careful_socket(pod: Pod, to: int) -> socket.socket:
    """That lets nobody fragment."""

    def work() -> socket.socket:
        opened = socket.socket(socket.AF_INET6 if FAMILY.is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
        opened.setsockopt(*MTU_DISCOVER[FAMILY.name], PMTUDISC_DO)
        opened.settimeout(2)
        opened.connect((format_ip(to), 9))
        return opened

    return pod.namespace.run(work)


def learned_mtu(pod: Pod, to: int, payload: int) -> int:
    with careful_socket(pod, to) as client:
        client.send(bytes(payload))
        with pytest.raises(OSError) as refused:  # the message is there before `send` returns
            client.send(bytes(payload))
        assert refused.value.errno == errno.EMSGSIZE
        return client.getsockopt(*LEARNED_MTU[FAMILY.name])


@both_tunnels
def test_tcp_between_nodes_makes_no_fragments(family: str, wire: Wire) -> None:
    transfer(wire.a.namespace, wire.c.namespace, wire.c.end.ip)
    assert [fragments(node) for node in wire.nodes] == [0, 0]


def test_a_pod_whose_route_promises_too_much_learns_of_it(family: str, wire: Wire) -> None:
    for node in wire.nodes:
        narrow_tunnel(node, 1350)
    assert learned_mtu(wire.a, wire.c.end.ip, 1400) == 1350
    transfer(wire.a.namespace, wire.c.namespace, wire.c.end.ip)
    transfer(wire.c.namespace, wire.a.namespace, wire.a.end.ip)
    assert [fragments(node) for node in wire.nodes] == [0, 0]


def let_forward(node: Node) -> None:
    def work() -> None:
        for pod in node.pods:
            for family in ("ipv4", "ipv6"):
                Path(f"/proc/sys/net/{family}/conf/{pod.name}/forwarding").write_text("1")

    node.namespace.run(work)


@both_tunnels
def test_a_narrow_route_to_another_node_is_told_to_pods(family: str, wire: Wire, outer: str) -> None:
    first, second = wire.nodes
    let_forward(first)

    def narrow_route(ipr: Any) -> None:
        to = f"{format_ip(second.tunnel_ip)}/{host_length(second.tunnel_ip)}"
        ipr.route("add", dst=to, oif=first.underlay, scope=253, metrics={"mtu": 1390, "lock": 1 << 2})

    first.namespace.netlink(narrow_route)
    assert learned_mtu(wire.a, wire.c.end.ip, 1370) == 1390 - OVERHEAD[outer]
    transfer(wire.a.namespace, wire.c.namespace, wire.c.end.ip)
    assert fragments(first) == 0


def test_what_a_router_says_of_the_tunnels_way_is_told_to_pods(wire: Wire) -> None:
    """The outer packet is what it complains of; the node's kernel learns from it, and the pod by its next packet."""
    first, second = wire.nodes
    let_forward(first)
    vxlan = struct.pack(">BBHI", 8, 0, 0, wire.a.end.identity << 8)
    udp = struct.pack(">HHHH", 50000, PORT, 1450, 0) + vxlan
    quoted = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 1470, 1, 0x4000, 64, UDP, 0, first.ip.to_bytes(4), second.ip.to_bytes(4)
    )
    message = struct.pack(">BBHHH", 3, 4, 0, 0, 1370) + quoted + udp + bytes(28)
    message = message[:2] + checksum(message).to_bytes(2) + message[4:]

    def complain() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.sendto(message, (format_ip(first.ip), 0))

    second.namespace.run(complain)
    assert learned_mtu(wire.a, wire.c.end.ip, 1400) == 1370 - 50
    transfer(wire.a.namespace, wire.c.namespace, wire.c.end.ip)
    assert fragments(first) == 0
