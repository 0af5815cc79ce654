"""Each reason to drop, over each family that has it, by packets that come over real devices: of a pod, of its node, and
through the tunnel."""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from kilim.agent.bpf import syscall
from kilim.agent.bpf.hooks import Hooks
from kilim.agent.records import reason_name
from kilim.lab.topology import IP_FAMILIES, IPV6
from kilim.model.address import parse_ip
from kilim.model.tables import ALLOW, DENY, PolicyRows, TablesDelta
from tests.kernel.frames import FAMILY, TCP, WORLD, End, icmp_protocol, ip, neighbor, tcp, udp
from tests.kernel.rig import INGRESS, row
from tests.kernel.test_forgery import send as send_through_tunnel
from tests.kernel.wire import PORT, Namespace, Wire

HEADER = Path(__file__).parents[2] / "bpf" / "lib" / "reasons.h"
NOT_BY_A_PACKET = {
    "CT_INSERTION": "the table makes room (tests/datapath/test_reasons.py: one that does not)",
    "WRITE_ERROR": "the kernel had no memory to make the frame writable or for the tunnel's key",
}
OF_IPV6 = {"INVALID_EXTHDR", "FORBIDDEN_ICMPV6"}
COPIES = 64  # more than what pods say by themselves, of which some is dropped, too
PATIENCE = 2000  # looks
STRANGER = End(parse_ip("10.61.1.99"), 0)
GROUP = {False: parse_ip("224.0.0.251"), True: parse_ip("ff02::fb")}
TIMESTAMP, NODE_INFORMATION = 13, 140  # types of ICMP that nobody tracks

Case = Callable[[Wire], None]


@pytest.fixture(scope="module")
def wire(name_prefix: str) -> Iterator[Wire]:
    """b hears a on no port but 82, and is closed to it on 81; c of the other node has no policy yet."""
    masquerade = {"masquerade_ipv4": True, "masquerade_ipv6": True, "masquerade_ports": (10000, 10002)}
    built = Wire(Path(f"/sys/fs/bpf/{name_prefix}-wire-reasons"), **masquerade)
    try:
        a, b, c = (pod.end.identity for pod in (built.a, built.b, built.c))
        rows: PolicyRows = {row(INGRESS, a, TCP, 81, 16): DENY, row(INGRESS, a, TCP, 82, 16): ALLOW}
        built.datapaths[0].tables.write(TablesDelta(subjects={b: 1}, policy={b: rows}), 20, {})
        built.datapaths[1].tables.write(TablesDelta(subjects={c: None}), 20, {})
        _attach_overlay_to_a_plain_device(built)
        yield built
    finally:
        built.close()


def _attach_overlay_to_a_plain_device(wire: Wire) -> None:
    """Between the nodes: what comes over it to the first has no tunnel's key."""
    first, second = wire.nodes
    peer = {"ifname": "plain", "net_ns_fd": second.namespace.fd}
    first.namespace.netlink(lambda ipr: ipr.link("add", ifname="plain", kind="veth", peer=peer))
    for node in wire.nodes:
        node.namespace.netlink(lambda ipr: ipr.link("set", index=ipr.link_lookup(ifname="plain")[0], state="up"))
    program = wire.datapaths[0].program_fd("overlay")
    hooks = Hooks(wire.datapaths[0].attach_mode, first.root / "links", program)
    index = first.namespace.netlink(lambda ipr: ipr.link_lookup(ifname="plain")[0])
    first.namespace.run(partial(hooks.attach, program, index, syscall.TCX_INGRESS, "plain"))


def _send(namespace: Namespace, device: str, *frames: bytes) -> None:
    with namespace.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as raw:
        namespace.run(lambda: raw.bind((device, 0)))
        for frame in frames:
            with suppress(OSError):  # ENOBUFS tells a sender of the node that it was dropped
                raw.send(frame)


def _by_pod(*make: Callable[[Wire], bytes]) -> Case:
    """The frames by a, the last of them again and again."""

    def send(wire: Wire) -> None:
        *before, last = (each(wire) for each in make)
        _send(wire.a.namespace, "eth0", *before, *[last] * COPIES)

    return send


def _by_host(make: Callable[[Wire], bytes]) -> Case:
    return lambda wire: _send(wire.nodes[0].namespace, wire.a.name, *[make(wire)] * COPIES)


def _by_wire(device: str, make: Callable[[Wire], bytes]) -> Case:
    return lambda wire: _send(wire.nodes[1].namespace, device, *[make(wire)] * COPIES)


def _by_tunnel(identity: int) -> Case:
    def send(wire: Wire) -> None:
        for _ in range(COPIES):
            send_through_tunnel(wire.nodes[0].namespace, wire.nodes[1].tunnel_ip, identity, udp(wire.b.end, wire.c.end))

    return send


def _changed(frame: bytes, at: int, new: bytes) -> bytes:
    return frame[:at] + new + frame[at + len(new) :]


def _tagged(frame: bytes) -> bytes:
    return frame[:12] + b"\x81\0\0\7" + frame[12:]


CASES: dict[str, Case] = {
    "INVALID_SOURCE_MAC": _by_pod(lambda w: _changed(tcp(w.a.end, w.b.end), 6, w.b.end.mac)),
    "INVALID_SOURCE_IP": _by_pod(lambda w: tcp(STRANGER, w.b.end)),
    "POLICY_DENIED": _by_pod(lambda w: tcp(w.a.end, w.b.end)),
    "INVALID_PACKET": _by_pod(lambda w: _changed(tcp(w.a.end, w.b.end), 14, b"\x44")),
    "CT_INVALID_HEADER": _by_pod(lambda w: ip(w.a.end, w.b.end, TCP, bytes(12))),
    "CT_UNKNOWN_L4": _by_pod(lambda w: ip(w.a.end, w.b.end, 47, bytes(24))),
    "UNSUPPORTED_L3": _by_pod(lambda w: _changed(tcp(w.a.end, w.b.end), 12, b"\x88\xcc")),
    "NO_TUNNEL_KEY": _by_wire("plain", lambda w: tcp(w.c.end, w.a.end)),
    "UNROUTABLE_IP": _by_pod(lambda w: tcp(w.a.end, End(GROUP[FAMILY.is_ipv6], 0))),
    "NO_LOCAL_ENDPOINT": _by_host(lambda w: tcp(End(w.nodes[0].ip, 0), STRANGER)),
    "INVALID_EXTHDR": _by_pod(lambda w: ip(w.a.end, w.b.end, 60, b"\0\0" + bytes(14))),
    "FRAGMENT": _by_pod(lambda w: ip(w.a.end, w.b.end, TCP, bytes(8), 0x2000)),
    "NO_POLICY": _by_tunnel(1002),
    "NO_MAPPING_FOR_NAT_MASQUERADE": _by_pod(
        *(lambda w, port=port: udp(w.a.end, WORLD, port) for port in range(40000, 40004))  # type: ignore[misc]
    ),
    "UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE": _by_pod(
        lambda w: ip(
            w.a.end, WORLD, icmp_protocol(), bytes((NODE_INFORMATION if FAMILY.is_ipv6 else TIMESTAMP, *[0] * 19))
        )
    ),
    "ENCAPSULATION": _by_pod(lambda w: udp(w.a.end, End(w.nodes[1].ip, 6), dport=PORT)),
    "NO_FIRST_FRAGMENT": _by_pod(lambda w: ip(w.a.end, w.b.end, TCP, bytes(64), 8, 77)),
    "FORBIDDEN_ICMPV6": _by_pod(lambda w: neighbor(w.a.end, 134, w.a.end.ip)),
    "POLICY_DENY": _by_pod(lambda w: tcp(w.a.end, w.b.end, dport=81)),
    "VLAN_FILTERED": _by_pod(lambda w: _tagged(tcp(w.a.end, w.b.end))),
    "INVALID_VNI": _by_tunnel(2),
}


def test_each_reason_is_here() -> None:
    reasons = set(re.findall(r"^\tDROP_(\w+) = ", HEADER.read_text(), re.M))
    assert reasons == CASES.keys() | NOT_BY_A_PACKET.keys()


def _number(reason: str) -> int:
    found = re.search(rf"DROP_{reason} = (\d+)", HEADER.read_text())
    assert found
    return int(found[1])


def _counted(wire: Wire, number: int) -> int:
    return sum(each.packets for datapath in wire.datapaths for each in datapath.counters() if each.reason == number)


@pytest.mark.parametrize(
    ("family", "reason"),
    [(family, reason) for family in IP_FAMILIES for reason in CASES if family == IPV6 or reason not in OF_IPV6],
    indirect=["family"],
)
def test_packets_cause_it(family: str, wire: Wire, reason: str) -> None:
    number = _number(reason)
    before = _counted(wire, number)
    CASES[reason](wire)
    for _ in range(PATIENCE):
        if _counted(wire, number) - before >= COPIES:
            return
    pytest.fail(f"{_counted(wire, number) - before} of {COPIES} dropped as {reason_name(number)}")
