"""Who may speak through the tunnel: other nodes, each for its own pods. A pod that builds the frames itself may not."""

import socket
import struct
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kilim.agent.records import Record, decode_records
from kilim.model.address import format_ip, host_length, is_ipv6, parse_ip, without_host_bits
from kilim.model.identity import HEALTH
from kilim.model.tables import ALLOW, PolicyRows, TablesDelta
from tests.kernel.frames import FAMILY, NODE, OTHER_NODE, REMOTE, WORLD, A, B, End, tcp, udp
from tests.kernel.rig import INGRESS, Rig, row
from tests.kernel.test_nat import summed
from tests.kernel.wire import PORT, Namespace, Node, Wire

INVALID_SOURCE_IP, ENCAPSULATION, INVALID_VNI = 132, 170, 183

STRANGER = End(parse_ip("10.61.1.77"), 1009)
ELSEWHERE = End(parse_ip("10.61.3.2"), 1005)
THIRD_NODE = parse_ip("192.168.7.3"), parse_ip("fd00:7::3")
NOBODY = "192.168.7.9", "fd00:7::9"


@pytest.fixture
def wire(bpf_root: Path) -> Iterator[Wire]:
    """c, on the second node, hears b alone. The tunnel is of the test's family."""
    built = Wire(bpf_root, outer=FAMILY.name)
    b, c = built.b.end, built.c.end
    policy: dict[int, PolicyRows | None] = {c.identity: {row(INGRESS, b.identity): ALLOW}}
    ipcache = {ELSEWHERE.host: (ELSEWHERE.identity, THIRD_NODE[FAMILY.is_ipv6])}
    built.datapaths[1].tables.write(TablesDelta(ipcache, subjects={c.identity: 1}, policy=policy), 20, {})
    yield built
    built.close()


def send(source: Namespace, node_ip: int, identity: int, frame: bytes, bind: str = "") -> None:
    """A frame in VXLAN, made by hand."""
    kind = socket.AF_INET6 if is_ipv6(node_ip) else socket.AF_INET
    with source.run(lambda: socket.socket(kind, socket.SOCK_DGRAM)) as sender:
        sender.bind((bind, 0))
        sender.sendto(struct.pack(">II", 1 << 27, identity << 8) + frame, (format_ip(node_ip), PORT))


def heard(wire: Wire, node: int, patience_s: float = 10) -> list[Record]:
    """What the node's programs say of what was sent, as soon as they do, if they do. A neighbor whose answer is lost is
    asked again after a second."""
    records: list[Record] = []
    deadline = time.monotonic() + patience_s
    while not records and time.monotonic() < deadline:
        records = list(decode_records(wire.datapaths[node].events.read()))
        time.sleep(0.01)
    return records


def test_a_pod_may_not_speak_as_another_to_other_nodes(family: str, wire: Wire) -> None:
    b, c = wire.b.end, wire.c.end
    send(wire.a.namespace, wire.nodes[1].ip, b.identity, udp(b, c))
    [record] = heard(wire, 0)
    assert (record.reason, record.src_identity) == (ENCAPSULATION, wire.a.end.identity)
    assert not heard(wire, 1, patience_s=1)


def test_a_pod_may_not_speak_as_another_to_its_own_node(family: str, wire: Wire) -> None:
    send(wire.a.namespace, wire.nodes[0].ip, wire.c.end.identity, udp(wire.c.end, wire.b.end))
    [record] = heard(wire, 0)
    assert record.reason == ENCAPSULATION


def test_only_nodes_that_are_known_speak_through_the_tunnel(family: str, wire: Wire) -> None:
    node, nobody = wire.nodes[0], NOBODY[FAMILY.is_ipv6]
    node.namespace.netlink(lambda ipr: ipr.addr("add", index=node.underlay, address=nobody, prefixlen=24, flags=2))
    for source in (wire.b.end, STRANGER):
        send(node.namespace, wire.nodes[1].ip, wire.b.end.identity, udp(source, wire.c.end), nobody)
        [record] = heard(wire, 1)
        assert (record.reason, record.src_identity) == (INVALID_SOURCE_IP, 0)


def test_a_node_speaks_for_no_pod_of_another_nor_for_nodes(family: str, wire: Wire) -> None:
    first, second = wire.nodes
    for ip in (ELSEWHERE.ip, wire.c.end.ip, first.ip, second.ip):
        send(first.namespace, second.ip, wire.b.end.identity, udp(End(ip, 0), wire.c.end))
        [record] = heard(wire, 1)
        assert record.reason == INVALID_SOURCE_IP, format_ip(ip)


def test_a_pod_that_is_not_known_yet_is_vouched_for_by_its_node(family: str, wire: Wire) -> None:
    """Its row may take longer to come than its first packet; the prefix of a policy may cover it."""
    for prefix_len in (0, 16):
        send(wire.nodes[0].namespace, wire.nodes[1].ip, wire.b.end.identity, udp(STRANGER, wire.c.end, prefix_len + 1))
        [record] = heard(wire, 1)
        assert (record.reason, record.src_identity) == (0, wire.b.end.identity)
        covering = host_length(STRANGER.ip) - 16
        ipcache = {(without_host_bits(STRANGER.ip, covering), covering): ((1 << 24) + 1, 0)}
        wire.datapaths[1].tables.write(TablesDelta(ipcache), 21, {})


def test_an_address_of_this_node_is_never_somebody_elses(family: str, wire: Wire) -> None:
    """Even while `ipcache` says nothing of it."""
    node, c = wire.nodes[1], wire.c.end
    wire.datapaths[1].tables.write(TablesDelta({c.host: None, (node.ip, host_length(node.ip)): None}), 21, {})
    for ip in (c.ip, node.ip):
        send(wire.nodes[0].namespace, node.ip, wire.b.end.identity, udp(End(ip, 0), c))
        [record] = heard(wire, 1)
        assert record.reason == INVALID_SOURCE_IP


@pytest.mark.parametrize("identity", [0, 1, 2, 3, 5, 6, 255, 65536, (1 << 24) - 1])
def test_the_vni_is_the_identity_of_an_endpoint(wire: Wire, identity: int) -> None:
    send(wire.nodes[0].namespace, wire.nodes[1].ip, identity, udp(wire.b.end, wire.c.end))
    [record] = heard(wire, 1)
    assert record.reason == INVALID_VNI


def test_a_health_endpoint_is_one(wire: Wire) -> None:
    send(wire.nodes[0].namespace, wire.nodes[1].ip, HEALTH, udp(wire.b.end, wire.c.end))
    [record] = heard(wire, 1)
    assert record.reason != INVALID_VNI
    assert record.src_identity == HEALTH


def send_raw(sender: Node, receiver: Node, device: str, frame: bytes, tag: bytes = b"") -> None:
    """Over a wire that both call `device`, to a node that routes what is not its own."""

    def send_frame() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((device, 0))
            whole = summed(frame)
            raw.send(to + whole[6:12] + tag + whole[12:])

    to = mac_of(receiver, device)
    for setting, value in (("ip_forward", "1"), ("conf/all/rp_filter", "0"), (f"conf/{device}/rp_filter", "0")):
        receiver.namespace.run(partial(Path("/proc/sys/net/ipv4", setting).write_text, value))
    sender.namespace.run(send_frame)


def mac_of(node: Node, device: str) -> bytes:
    def read(ipr: Any) -> str:
        return str(ipr.get_links(ifname=device)[0].get_attr("IFLA_ADDRESS"))

    return bytes.fromhex(node.namespace.netlink(read).replace(":", ""))


@pytest.mark.parametrize("tag", [b"", b"\x81\0\x60\0"], ids=["no tag", "priority"])
def test_a_tag_of_no_vlan_hides_nothing(wire: Wire, tag: bytes) -> None:
    """The stack would take it off, and send on what it has not asked us about."""
    first, second = wire.nodes
    send_raw(second, first, "under", udp(wire.c.end, wire.a.end), tag)
    [record] = heard(wire, 0)
    assert (record.reason, record.src_identity) == (INVALID_SOURCE_IP, wire.c.end.identity)


def test_who_may_send_over_a_device_that_has_no_program(wire: Wire) -> None:
    """What the stack forwards from there is not for it to vouch for."""
    first, second = wire.nodes
    peer = {"ifname": "side", "net_ns_fd": second.namespace.fd}
    first.namespace.netlink(lambda ipr: ipr.link("add", ifname="side", kind="veth", peer=peer))
    for node in wire.nodes:
        node.namespace.netlink(lambda ipr: ipr.link("set", index=ipr.link_lookup(ifname="side")[0], state="up"))
    for source, reason in ((wire.c.end, INVALID_SOURCE_IP), (wire.b.end, INVALID_SOURCE_IP), (WORLD, 0)):
        send_raw(second, first, "side", udp(source, wire.a.end))
        [record] = heard(wire, 0)
        assert (record.reason, record.src_ip, record.src_identity) == (reason, source.ip, source.identity)


def test_pods_send_to_no_tunnel_of_a_node(rig: Rig) -> None:
    for node in (NODE, OTHER_NODE):
        assert rig.out(udp(A, node, dport=PORT)).reason == ENCAPSULATION
        assert rig.out(udp(A, node, dport=PORT + 1)).passed
        assert rig.out(tcp(A, node, dport=PORT)).passed
    for end in (B, REMOTE, WORLD):
        assert rig.out(udp(A, end, dport=PORT)).passed
