"""Same-node acceleration: real sockets of pods on a node. What has gone from socket to socket is told by this, that the
pods' devices are down meanwhile."""

import os
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kilim.agent.bpf import objects, syscall
from kilim.agent.bpf.datapath import Datapath, remove_all
from kilim.agent.bpf.libbpf import LoadError
from kilim.agent.bpf.objects import load_program
from kilim.agent.bpf.sockops import OBJECT
from kilim.agent.pod_namespaces import _own_cookie
from kilim.agent.records import FORWARDED, decode_records
from kilim.model.address import format_ip, is_ipv6
from kilim.model.tables import ALLOW, DENY, EndpointValue, TablesDelta
from tests.kernel.frames import FAMILY
from tests.kernel.rig import EGRESS, INGRESS, row
from tests.kernel.sockops import PORT, Ends, accelerate, accelerated, devices_down, passes, passes_directly, set_policy
from tests.kernel.wire import Namespace, Wire, both

DENY_RULE = 181


@pytest.fixture
def wire(bpf_root: Path) -> Iterator[Wire]:
    with accelerated(bpf_root) as made:
        yield made


def test_between_pods_of_a_node_no_device_is_needed(family: str, wire: Wire) -> None:
    datapath = wire.datapaths[0]
    with Ends(wire, wire.b) as ends:
        before = {(each.reason, each.direction): each.packets for each in datapath.counters()}
        assert passes_directly(wire, ends)
        after = {(each.reason, each.direction): each.packets for each in datapath.counters()}
    for direction in (INGRESS, EGRESS):
        assert after[FORWARDED, direction] == before[FORWARDED, direction] + 2, "each write counts as a packet"
    records = list(decode_records(datapath.events.read()))
    assert [(record.type, record.dst_port) for record in records] == [(1, PORT)], "the connection's record, as ever"


def test_an_ipv4_connection_of_an_ipv6_socket_is_one_of_ipv4(wire: Wire) -> None:
    made = partial(socket.create_server, ("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
    with wire.b.namespace.run(made) as listener:
        client = wire.a.namespace.connect(wire.b.end.ip, PORT)
        server, _ = listener.accept()
    with client, server:
        server.settimeout(2)
        with devices_down(wire):
            assert passes(client, server)


def test_connections_with_others_go_by_the_devices(family: str, wire: Wire) -> None:
    for server, client, device in ((wire.c, None, wire.a), (wire.a, wire.nodes[0].namespace, wire.a)):
        with Ends(wire, server, client, timeout_s=0.3) as ends:
            assert passes(ends.client, ends.server)
            with devices_down(wire, device):
                assert not passes(ends.client, ends.server)


def sockets_held(datapath: Datapath) -> int:
    assert datapath.sockops is not None
    return datapath.sockops.count()


def test_who_has_a_pods_address_elsewhere_is_not_that_pod(family: str, wire: Wire) -> None:
    """A namespace of somebody's own, with the addresses of both pods."""
    forger = Namespace()

    def both_addresses(ipr: Any) -> None:
        ipr.link("set", index=1, state="up")
        for pod in (wire.a, wire.b):
            for ip in both(pod.end):
                ipr.addr("add", index=1, address=format_ip(ip), prefixlen=128 if is_ipv6(ip) else 32)

    forger.netlink(both_addresses)
    with Ends(wire, wire.b) as ends:
        held = sockets_held(wire.datapaths[0])
        port = ends.client.getsockname()[1]
        with forger.listener(wire.b.end.ip, PORT) as listener:
            kind = socket.AF_INET6 if FAMILY.is_ipv6 else socket.AF_INET
            forged = forger.run(lambda: socket.socket(kind))
            forged.bind((format_ip(wire.a.end.ip), port))
            forged.connect((format_ip(wire.b.end.ip), PORT))
            other, _ = listener.accept()
            with forged, other:
                assert sockets_held(wire.datapaths[0]) == held == 2
                forged.sendall(b"what is not theirs")
                other.settimeout(2)
                assert other.recv(100) == b"what is not theirs"
                assert passes_directly(wire, ends)
    forger.close()


def test_a_verdict_that_turns_stops_it_and_one_that_turns_back_lets_it_go_on(family: str, wire: Wire) -> None:
    datapath, a, b = wire.datapaths[0], wire.a, wire.b
    set_policy(wire, b, {row(INGRESS, a.end.identity): ALLOW}, 20)
    with Ends(wire, b, timeout_s=0.5) as ends:
        assert passes_directly(wire, ends)
        set_policy(wire, b, {row(INGRESS, a.end.identity): DENY}, 30)
        datapath.events.read()
        ends.client.sendall(b"held back")
        with pytest.raises(TimeoutError):
            ends.server.recv(100)
        records = [record for record in decode_records(datapath.events.read()) if record.type == 2]
        assert {record.reason for record in records} == {DENY_RULE} and records[0].dst_port == PORT
        ends.server.sendall(b"this way too")
        with pytest.raises(TimeoutError):
            ends.client.recv(100)
        set_policy(wire, b, {row(INGRESS, a.end.identity): ALLOW}, 40)
        ends.client.settimeout(5)
        ends.server.settimeout(5)
        assert ends.server.recv(100) == b"held back" and ends.client.recv(100) == b"this way too"
        assert passes(ends.client, ends.server) and passes(ends.server, ends.client)
        with Ends(wire, b) as later:
            assert passes_directly(wire, later)


def test_a_change_that_is_not_about_it_does_not_end_it(family: str, wire: Wire) -> None:
    a, b = wire.a, wire.b
    set_policy(wire, b, {row(INGRESS, a.end.identity): ALLOW}, 20)
    with Ends(wire, b) as ends:
        set_policy(wire, b, {row(INGRESS, a.end.identity): ALLOW, row(INGRESS, 77): DENY}, 30)
        assert passes_directly(wire, ends)
        wire.datapaths[0].tables.write(TablesDelta(endpoints={0x7F000009: EndpointValue(9, 9)}), 31, {0x7F000009: 9})
        assert passes_directly(wire, ends)


def test_a_namespace_that_outlives_its_pod_writes_to_nobody_directly(family: str, wire: Wire) -> None:
    sockops = wire.datapaths[0].sockops
    assert sockops is not None
    with Ends(wire, wire.b, timeout_s=0.3) as ends:
        assert passes_directly(wire, ends)
        sockops.write_namespace(both(wire.a.end), wire.c.namespace.run(_own_cookie))
        with devices_down(wire):
            assert passes(ends.server, ends.client) and not passes(ends.client, ends.server)


def test_a_connection_that_was_forgotten_goes_by_the_devices(family: str, wire: Wire) -> None:
    with Ends(wire, wire.b) as ends:
        assert passes_directly(wire, ends)
        connections = wire.datapaths[0].maps["ct"]
        connections.delete(connections.read()[0])
        assert passes(ends.client, ends.server) and passes(ends.server, ends.client)
        assert len(connections.read()[0]) == 1, "judged and entered again"


def test_a_start_over_the_same_maps_changes_nothing(family: str, wire: Wire) -> None:
    with Ends(wire, wire.b) as ends:
        wire.datapaths[0].close()
        assert passes_directly(wire, ends)
        wire.datapaths[0] = wire.nodes[0].load(sockops=True)
        wire.nodes[0].attach(wire.datapaths[0])
        accelerate(wire.datapaths[0])
        assert passes_directly(wire, ends)
        with Ends(wire, wire.b) as later:
            assert passes_directly(wire, later)


def test_a_start_over_other_maps_or_without_it_sends_what_is_open_by_the_devices(family: str, wire: Wire) -> None:
    for settings in ({"sockops": True, "ct_max_entries": 8192}, {"sockops": False}):
        with Ends(wire, wire.b, timeout_s=0.5) as ends:
            ends.client.sendall(b"not read yet")
            wire.datapaths[0].close()
            wire.datapaths[0] = wire.nodes[0].load(**settings)
            wire.nodes[0].attach(wire.datapaths[0])
            accelerate(wire.datapaths[0])
            assert ends.server.recv(100) == b"not read yet", "what lies in the queue of a socket is not lost"
            assert passes(ends.client, ends.server) and passes(ends.server, ends.client)
            with devices_down(wire):
                assert not passes(ends.client, ends.server)
    assert not (wire.nodes[0].root / "sockops").exists()


def test_pods_of_a_time_before_one_without_it_are_not_known(family: str, wire: Wire) -> None:
    """Their addresses may be others' by now, and their namespaces be held by somebody."""
    for sockops in (False, True):
        wire.datapaths[0].close()
        wire.datapaths[0] = wire.nodes[0].load(sockops=sockops)
        wire.nodes[0].attach(wire.datapaths[0])
        accelerate(wire.datapaths[0])
    with Ends(wire, wire.b) as ends:
        assert passes(ends.client, ends.server) and sockets_held(wire.datapaths[0]) == 0


def test_what_cannot_be_had_is_said_and_takes_away_what_was_there(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    datapath, links = wire.datapaths[0], wire.nodes[0].root / "sockops"
    with Ends(wire, wire.b, timeout_s=0.5) as ends:
        with pytest.raises(OSError, match="Bad file descriptor|Invalid argument"):
            datapath.attach_sockops(Path("/proc"))
        assert not links.exists() and passes(ends.client, ends.server)
    datapath.close()

    def load(program: str, *arguments: Any, **named: Any) -> objects.LoadedPrograms:
        if program == OBJECT:
            raise LoadError(95, Path("sockops.bpf.o"), "no such thing")
        return load_program(program, *arguments, **named)

    monkeypatch.setattr(objects, "load_program", load)
    wire.datapaths[0] = wire.nodes[0].load()
    wire.nodes[0].attach(wire.datapaths[0])
    with pytest.raises(OSError, match="sockops.bpf.o: Operation not supported$"):
        wire.datapaths[0].attach_sockops(None)
    with Ends(wire, wire.b) as ends:
        assert passes(ends.client, ends.server)


def test_programs_are_gone_when_all_is_removed(wire: Wire) -> None:
    for of in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        wire.nodes[0].namespace.run(partial(Path(f"/proc/sys/net/{of}").write_text, "1"))
    with Ends(wire, wire.b) as ends:
        ends.client.sendall(b"not read yet")
        wire.nodes[0].namespace.run(partial(remove_all, wire.nodes[0].root))
        assert ends.server.recv(100) == b"not read yet"
        assert passes(ends.client, ends.server), "the kernel's own way"
    assert not wire.nodes[0].root.exists()
    wire.datapaths[0].close()
    wire.datapaths[0] = wire.nodes[0].load()


def test_links_are_of_the_cgroup_and_of_the_map(wire: Wire) -> None:
    links = wire.nodes[0].root / "sockops"
    types = []
    for pin in sorted(links.iterdir()):
        fd = syscall.open_pinned(pin)
        types.append(syscall.link_info(fd).type)
        os.close(fd)
    assert types == [3, 14], "BPF_LINK_TYPE_CGROUP, BPF_LINK_TYPE_SOCKMAP"
