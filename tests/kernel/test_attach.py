"""tcx and clsact: which is taken, the change from one to the other under traffic, what is left when all is removed."""

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from kilim.agent.bpf import attach, clsact, syscall, tc
from kilim.agent.bpf.datapath import Datapath, Settings, load_objects, remove_all
from kilim.agent.bpf.hooks import AttachMode, Hooks
from kilim.model.address import format_ip, is_ipv6
from kilim.model.tables import ALLOW, PolicyRows, TablesDelta
from tests.kernel.rig import EGRESS, row
from tests.kernel.wire import Namespace, Node, Pod, Wire, both

GAP_S = 0.0005


class Stream:
    """Numbered datagrams from one pod to another, until closed; `missing` and `doubled` say what became of them."""

    def __init__(self, source: Pod, destination: Pod, ip: int, port: int) -> None:
        family = socket.AF_INET6 if is_ipv6(ip) else socket.AF_INET
        open_socket = partial(socket.socket, family, socket.SOCK_DGRAM)
        self._receiver = destination.namespace.run(open_socket)
        self._sender = source.namespace.run(open_socket)
        self._receiver.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        self._receiver.bind((format_ip(ip), port))
        self._receiver.settimeout(0.3)
        self._sender.connect((format_ip(ip), port))
        self._ended = threading.Event()
        self.sent = 0
        self.received: list[int] = []
        self._threads = [threading.Thread(target=work) for work in (self._receive, self._send)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._receiver.close()
        self._sender.close()

    def _send(self) -> None:
        for number in count():
            if self._ended.wait(GAP_S):
                return
            self._sender.send(number.to_bytes(8, "big"))
            self.sent += 1

    def _receive(self) -> None:
        while True:
            try:
                self.received.append(int.from_bytes(self._receiver.recv(64), "big"))
            except TimeoutError:
                if self._ended.is_set():
                    return


@contextmanager
def streams(*ends: tuple[Pod, Pod]) -> Iterator[list[Stream]]:
    """Over both families."""
    running = [Stream(*pair, ip, 7100 + number) for number, pair in enumerate(ends) for ip in both(pair[1].end)]
    try:
        yield running
    finally:
        for each in running:
            each.close()


@pytest.fixture
def build(bpf_root: Path) -> Iterator[Callable[[AttachMode], Wire]]:
    built: list[Wire] = []

    def make(mode: AttachMode) -> Wire:
        built.append(Wire(bpf_root, mode))
        return built[-1]

    yield make
    for wire in built:
        wire.close()


def _attached(node: Node) -> tuple[set[str], set[str]]:
    """Names of tcx links, of clsact filters."""
    links = node.root / "links"
    filters = node.namespace.run(lambda: clsact.read_filters(links))
    return set(attach.read_links(links)), {name for name, _ in filters}


def _qdiscs(node: Node) -> list[int]:
    return node.namespace.run(tc.read_devices)


def _switch(wire: Wire, mode: AttachMode) -> None:
    node, before = wire.nodes[0], wire.datapaths[0]
    before.close()
    wire.datapaths[0] = node.load(mode)
    node.attach(wire.datapaths[0])


ALL = {"lxc1-from", "lxc1-to", "lxc2-from", "lxc2-to", "overlay", "netdev-underlay"}


@pytest.mark.parametrize("start", ["tcx", "clsact"])
def test_change_of_mode_loses_doubles_and_admits_nothing(
    build: Callable[[AttachMode], Wire], start: AttachMode
) -> None:
    """What leaves node1 is looked at only where its devices had their qdiscs before: the kernel stops a device that is
    up for a moment when it gets one."""
    wire = build(start)
    policy: dict[int, PolicyRows | None] = {wire.b.end.identity: {row(EGRESS, wire.c.end.identity): ALLOW}}
    wire.datapaths[0].tables.write(TablesDelta(subjects={wire.b.end.identity: 2}, policy=policy), 20, {})
    allowed = [(wire.a, wire.b), (wire.c, wire.a)] + ([(wire.a, wire.c)] if start == "clsact" else [])
    with streams((wire.b, wire.a), *allowed) as running:
        for mode in (("clsact", "tcx") if start == "tcx" else ("tcx", "clsact")) * 2:
            _switch(wire, mode)
            assert _attached(wire.nodes[0]) == ((ALL, set()) if mode == "tcx" else (set(), ALL))
            assert wire.datapaths[0].attach_mode == mode
    for denied in running[:2]:
        assert denied.sent > 100 and not denied.received
    for stream in running[2:]:
        assert stream.sent > 100 and sorted(stream.received) == list(range(stream.sent))


@pytest.mark.parametrize("mode", ["tcx", "clsact"])
def test_removal_leaves_nothing(build: Callable[[AttachMode], Wire], mode: AttachMode) -> None:
    wire = build(mode)
    node, datapath = wire.nodes[0], wire.datapaths[0]
    assert len(_qdiscs(node)) == (4 if mode == "clsact" else 0)
    datapath.detach_endpoint("lxc1")  # of another namespace: only the pins
    node.namespace.run(lambda: datapath.detach_endpoint("lxc1"))
    assert len(_qdiscs(node)) == (3 if mode == "clsact" else 0)
    for _ in range(2):
        node.namespace.run(lambda: remove_all(node.root))
    assert not node.root.exists() and not _qdiscs(node)
    assert node.namespace.run(lambda: clsact.read_filters(node.root / "links")) == []


def _foreign_filter(node: Node, prog_fd: int) -> None:
    node.namespace.netlink(
        lambda ipr: ipr.tc(
            "add-filter", "bpf", index=node.underlay, fd=prog_fd, name="theirs", parent=tc.INGRESS,
            direct_action=True, prio=7, handle=1,
        )
    )  # fmt: skip


def test_filters_of_others_stay(build: Callable[[AttachMode], Wire]) -> None:
    wire = build("clsact")
    node, datapath = wire.nodes[0], wire.datapaths[0]
    _foreign_filter(node, datapath.program_fd("from_netdev"))
    node.attach(datapath)
    assert set(node.links(datapath)) == ALL
    node.namespace.run(lambda: remove_all(node.root))
    [left] = node.namespace.run(lambda: tc.read_filters(node.underlay, tc.INGRESS))
    assert left.name == "theirs" and _qdiscs(node) == [node.underlay]


def test_another_underlay_is_attached_in_place_of_the_first(build: Callable[[AttachMode], Wire]) -> None:
    wire = build("clsact")
    node, datapath = wire.nodes[0], wire.datapaths[0]
    node.namespace.run(lambda: datapath.attach_netdevs(1))
    assert node.links(datapath)["netdev-underlay"].ifindex == 1
    assert node.namespace.run(lambda: tc.read_filters(node.underlay, tc.INGRESS)) == []


def _refuse(prog_fd: int, ifindex: int, attach_type: int) -> int:
    """What kernels before 6.6 say."""
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def test_a_kernel_without_tcx_gets_filters(bpf_root: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscall, "create_tcx_link", _refuse)
    datapath: Datapath = load_objects(settings, bpf_root)
    try:
        assert datapath.attach_mode == "clsact"
        with pytest.raises(OSError, match="no tcx"):
            Hooks("tcx", bpf_root / "links", datapath.program_fd("overlay"))
    finally:
        datapath.close()


def test_what_cannot_be_attached_is_said(bpf_root: Path, settings: Settings) -> None:
    namespace, datapath = Namespace(), load_objects(settings, bpf_root)
    program = datapath.program_fd("overlay")
    modes: tuple[AttachMode, ...] = ("tcx", "clsact")
    try:
        for mode in modes:
            hooks = Hooks(mode, bpf_root / "links", program)
            with pytest.raises(OSError, match="No such device"):
                namespace.run(partial(hooks.attach, program, 77, syscall.TCX_INGRESS, "x"))
        assert datapath.attach_mode == "tcx"
    finally:
        datapath.close()
        namespace.close()
