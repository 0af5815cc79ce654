"""Real traffic between two nodes: sockets in pods, vxlan between the nodes, ip_forward off."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilim.agent.bpf import objects
from kilim.agent.bpf.btf import Btf
from kilim.agent.bpf.libbpf import ObjectMap
from kilim.agent.bpf.pins import map_name, pin_names
from kilim.agent.records import decode_records, select_connections
from kilim.model.address import format_ip
from kilim.model.tables import ALLOW, PolicyRows, TablesDelta
from tests.kernel.frames import FAMILY
from tests.kernel.rig import EGRESS, INGRESS, row
from tests.kernel.wire import Namespace, Node, Pod, Wire, both

PORT = 7000
DATA = bytes(range(256)) * 1024


both_ways = pytest.mark.parametrize("wire", ["tcx", "clsact"], indirect=True)
both_tunnels = pytest.mark.parametrize("outer", ["IPv4", "IPv6"], indirect=True)


@pytest.fixture
def outer(request: pytest.FixtureRequest) -> str:
    """The family of the tunnel."""
    return str(getattr(request, "param", "IPv4"))


@pytest.fixture
def wire(bpf_root: Path, outer: str, request: pytest.FixtureRequest) -> Iterator[Wire]:
    built = Wire(bpf_root, getattr(request, "param", "auto"), outer)
    yield built
    built.close()


def transfer(source: Namespace, destination: Namespace, ip: int) -> None:
    """A connection that carries DATA there and back."""
    with destination.listener(ip, PORT) as listener:
        client = source.connect(ip, PORT)
        server, _ = listener.accept()
        with client, server:
            server.settimeout(5)
            client.settimeout(5)
            _send_and_check(client, server)
            _send_and_check(server, client)


def transfer_over_both(source: Pod, destination: Pod) -> None:
    for ip in both(destination.end):
        transfer(source.namespace, destination.namespace, ip)


def _send_and_check(sender: socket.socket, receiver: socket.socket) -> None:
    thread = threading.Thread(target=sender.sendall, args=(DATA,))
    thread.start()
    received = bytearray()
    while len(received) < len(DATA):
        received += receiver.recv(1 << 20)
    thread.join()
    assert received == DATA


def refused(source: Namespace, destination: Namespace, ip: int) -> bool:
    with destination.listener(ip, PORT):
        try:
            source.connect(ip, PORT, timeout_s=0.3).close()
        except TimeoutError:
            return True
    return False


@both_ways
@both_tunnels
def test_every_way_through_the_datapath(family: str, wire: Wire) -> None:
    first, second = wire.nodes
    transfer(wire.a.namespace, wire.b.namespace, wire.b.end.ip)
    transfer(wire.a.namespace, wire.c.namespace, wire.c.end.ip)
    transfer(wire.c.namespace, wire.a.namespace, wire.a.end.ip)
    transfer(first.namespace, wire.a.namespace, wire.a.end.ip)
    transfer(wire.a.namespace, first.namespace, first.ip)
    transfer(wire.a.namespace, second.namespace, second.ip)
    transfer(second.namespace, wire.a.namespace, wire.a.end.ip)
    for datapath in wire.datapaths:
        assert {counted.reason for counted in datapath.counters()} <= {0, 132, 139, 176}


@both_tunnels
def test_the_sender_is_known_by_the_vni(family: str, wire: Wire) -> None:
    transfer(wire.a.namespace, wire.c.namespace, wire.c.end.ip)
    [record] = decode_records(select_connections(wire.datapaths[1].events.read()))
    assert (record.src_identity, record.dst_identity) == (wire.a.end.identity, wire.c.end.identity)
    assert (record.src_ip, record.dst_ip, record.dst_port) == (wire.a.end.ip, wire.c.end.ip, PORT)


@both_tunnels
def test_identity_in_the_vni_decides_at_the_receiver(family: str, wire: Wire) -> None:
    tables = wire.datapaths[1].tables
    policy: dict[int, PolicyRows | None] = {wire.c.end.identity: {row(INGRESS, wire.a.end.identity): ALLOW}}
    tables.write(TablesDelta(subjects={wire.c.end.identity: 1}, policy=policy), 20, {})
    transfer(wire.a.namespace, wire.c.namespace, wire.c.end.ip)
    assert refused(wire.b.namespace, wire.c.namespace, wire.c.end.ip)
    assert refused(wire.nodes[1].namespace, wire.c.namespace, wire.c.end.ip)


def test_egress_policy_towards_other_nodes(family: str, wire: Wire) -> None:
    tables = wire.datapaths[0].tables
    policy: dict[int, PolicyRows | None] = {wire.a.end.identity: {row(EGRESS, 6): ALLOW}}
    tables.write(TablesDelta(subjects={wire.a.end.identity: 2}, policy=policy), 20, {})
    transfer(wire.a.namespace, wire.nodes[1].namespace, wire.nodes[1].ip)
    assert refused(wire.a.namespace, wire.c.namespace, wire.c.end.ip)
    transfer(wire.c.namespace, wire.a.namespace, wire.a.end.ip)


@both_tunnels
def test_closed_port_is_told_by_icmp_error(family: str, wire: Wire) -> None:
    """The error comes back through the tunnel to a pod that accepts nothing."""
    tables = wire.datapaths[0].tables
    policy: dict[int, PolicyRows | None] = {wire.a.end.identity: {row(EGRESS, 0): ALLOW}}
    tables.write(TablesDelta(subjects={wire.a.end.identity: 3}, policy=policy), 20, {})
    kind = socket.AF_INET6 if FAMILY.is_ipv6 else socket.AF_INET
    client = wire.a.namespace.run(lambda: socket.socket(kind, socket.SOCK_DGRAM))
    with client:
        client.settimeout(2)
        client.connect((format_ip(wire.c.end.ip), 9))
        client.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)


@both_ways
def test_connections_survive_the_restart_of_the_agent(family: str, wire: Wire) -> None:
    with wire.c.namespace.listener(wire.c.end.ip, PORT) as listener:
        client = wire.a.namespace.connect(wire.c.end.ip, PORT)
        server, _ = listener.accept()
        with client, server:
            _send_and_check(client, server)
            for number, node in enumerate(wire.nodes):
                mode, before = wire.datapaths[number].attach_mode, node.links(wire.datapaths[number])
                wire.datapaths[number].close()
                _send_and_check(client, server)
                wire.datapaths[number] = node.load(mode)
                node.attach(wire.datapaths[number])
                after = node.links(wire.datapaths[number])
                assert {name: link.id for name, link in before.items()} == {
                    name: link.id for name, link in after.items()
                }
                assert all(before[name].prog_id != after[name].prog_id for name in after)
            _send_and_check(server, client)
    [entry] = wire.datapaths[0].tables.dump("ct")[1]
    assert wire.a.end.text in entry[1]


@pytest.mark.parametrize("shape", ["policy", "subjects", "ipcache", "endpoints"])
def test_maps_of_another_shape_fill_while_the_programs_before_go_on_over_theirs(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    """An upgrade. Both peer and any-peer rows, so that they come under a new table."""
    node, before, a = wire.nodes[0], wire.datapaths[0], wire.a.end
    rows: PolicyRows = {row(EGRESS, wire.c.end.identity): ALLOW, row(EGRESS, 0, 17, 53, 16): ALLOW}
    policy: dict[int, PolicyRows | None] = {a.identity: rows}
    before.tables.write(TablesDelta(subjects={a.identity: 2}, policy=policy), 20, {})
    held = before.tables.read_rows()
    before.close()
    together = {"policy", "subjects"} if shape in ("policy", "subjects") else {shape}

    def other_names(maps: list[ObjectMap], btf: Btf) -> dict[str, str]:
        names = pin_names(maps, btf)
        return names | {name: f"{name}_01234567" for name in together & names.keys()}

    monkeypatch.setattr(objects, "pin_names", other_names)
    wire.datapaths[0] = after = node.load()
    assert set(after.moved_rows) == together and after.tables.read_rows() == held
    transfer_over_both(wire.a, wire.c)
    gone = {"policy": {wire.b.end.identity: None}, "subjects": {wire.b.end.identity: None}}
    after.tables.write(TablesDelta(**gone), 21, {})
    after.begin_takeover()
    for _ in range(2):
        transfer_over_both(wire.a, wire.c)
        assert all(refused(wire.a.namespace, wire.b.namespace, ip) for ip in both(wire.b.end))
        node.attach(after)
    after.end_takeover()
    del held.subjects[wire.b.end.identity]
    assert after.tables.read_rows() == held, "what was deleted meanwhile does not come again"
    assert sorted(map_name(pin.name) for pin in (node.root / "maps").iterdir()) == sorted(after.map_names)


@both_ways
def test_link_of_a_device_that_is_gone_is_made_anew(wire: Wire) -> None:
    node, datapath = wire.nodes[0], wire.datapaths[0]
    old = node.links(datapath)["lxc1-from"]
    _remove_device(node, wire.a)
    gone = node.links(datapath).get("lxc1-from")
    assert gone is None if datapath.attach_mode == "clsact" else gone and gone.ifindex == 0
    node.pods.remove(wire.a)
    wire.a.namespace.close()
    pod = node.add_pod(wire.a.end)
    node.attach(datapath)
    new = node.links(datapath)["lxc1-from"]
    assert new.ifindex == pod.ifindex != old.ifindex
    datapath.tables.write(TablesDelta(), 30, dict.fromkeys(both(pod.end), pod.ifindex))
    transfer_over_both(pod, wire.c)


def test_links_of_devices_that_are_gone_can_be_cleared(wire: Wire) -> None:
    node, datapath = wire.nodes[0], wire.datapaths[0]
    assert datapath.detach_gone() == []
    _remove_device(node, wire.a)
    assert datapath.detach_gone() == ["lxc1-from", "lxc1-to"]
    assert datapath.detach_gone() == []
    assert set(node.links(datapath)) == {"lxc2-from", "lxc2-to", "overlay", "netdev-underlay"}


def _remove_device(node: Node, pod: Pod) -> None:
    node.namespace.netlink(lambda ipr: ipr.link("del", index=pod.ifindex))


def test_detached_endpoint_has_no_links(wire: Wire) -> None:
    node, datapath = wire.nodes[0], wire.datapaths[0]
    for _ in range(2):
        node.namespace.run(lambda: datapath.detach_endpoint("lxc1"))
    assert set(node.links(datapath)) == {"lxc2-from", "lxc2-to", "overlay", "netdev-underlay"}
    with pytest.raises(ValueError, match="cannot name a pin"):
        datapath.attach_endpoint(1, "a.b")
