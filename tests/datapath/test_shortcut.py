"""The short way through the tunnel: what needs no row any more, and who does not get it. That packets fare on it as on
the long one, the checks and the fuzzer say."""

from typing import NamedTuple

import pytest

from tests.datapath.kernel import Kernel
from tests.datapath.model.state import DROP, REDIRECT
from tests.datapath.packets import ACK, SYN
from tests.datapath.places import (
    FAMILIES,
    OTHER_NODE,
    REMOTE,
    REMOTE_BY_IPV6,
    THIRD_NODE,
    A,
    B,
    Place,
    changed,
    tables,
    tcp,
    udp,
)


class Through(NamedTuple):
    """A pod of another node, and the outer packets of its node."""

    pod: Place
    node: int

    def origin(self, identity: int | None = None) -> tuple[int, int]:
        return self.node, self.pod.identity if identity is None else identity


TUNNELS = [Through(REMOTE, OTHER_NODE.ipv4), Through(REMOTE_BY_IPV6, THIRD_NODE.ipv6)]
PORTS = 80, 40000


@pytest.fixture(params=TUNNELS, ids=["by-IPv4", "by-IPv6"])
def through(request: pytest.FixtureRequest) -> Through:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=FAMILIES, ids=["IPv4", "IPv6"])
def of(request: pytest.FixtureRequest) -> int:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=[True, False], ids=["opened-here", "opened-there"])
def opened(request: pytest.FixtureRequest, kernel: Kernel, through: Through, of: int) -> Kernel:
    """A connection of TCP and one of UDP between A and the other pod, of two packets each."""
    kernel.forget_connections()
    kernel.load(tables())
    if request.param:
        assert _out(kernel, tcp(A, through.pod, of, SYN)) == REDIRECT
        assert _in(kernel, tcp(through.pod, A, of, SYN | ACK, PORTS), through) == REDIRECT
    else:
        assert _in(kernel, tcp(through.pod, A, of, SYN, PORTS), through) == REDIRECT
        assert _out(kernel, tcp(A, through.pod, of, SYN | ACK)) == REDIRECT
    assert _out(kernel, udp(A, through.pod, of)) == _in(kernel, udp(through.pod, A, of, (53, 40000)), through)
    return kernel


def _out(kernel: Kernel, frame: bytes) -> int:
    return kernel.run("from_endpoint", frame).verdict


def _in(kernel: Kernel, frame: bytes, through: Through, identity: int | None = None) -> int:
    return kernel.run("overlay", frame, through.origin(identity)).verdict


def test_it_needs_no_row_but_the_connection_s(opened: Kernel, through: Through, of: int) -> None:
    there, back = tcp(A, through.pod, of, ACK), tcp(through.pod, A, of, ACK, PORTS)
    usual = opened.run("overlay", back, through.origin()).frame
    opened.take_rows_away()
    opened.take_counters()
    assert _out(opened, there) == REDIRECT
    assert opened.run("overlay", back, through.origin()).frame == usual, "MAC addresses as on the long way"
    assert _out(opened, udp(A, through.pod, of)) == REDIRECT
    assert _in(opened, udp(through.pod, A, of, (53, 40000)), through) == REDIRECT
    assert opened.take_counters() == {(0, 0): 2, (0, 1): 2}
    assert _out(opened, tcp(A, through.pod, of, ACK, (40001, 80))) == DROP
    assert _in(opened, tcp(through.pod, A, of, ACK, (80, 40001)), through) == DROP


def test_who_speaks_through_it_must_be_the_same(opened: Kernel, through: Through, of: int) -> None:
    back = tcp(through.pod, A, of, ACK, PORTS)
    opened.take_rows_away()
    for node in (OTHER_NODE.ipv4, OTHER_NODE.ipv6, THIRD_NODE.ipv4, THIRD_NODE.ipv6):
        expected = REDIRECT if node == through.node else DROP
        assert _in(opened, back, through._replace(node=node)) == expected
    assert _in(opened, back, through, 1009) == DROP
    assert _in(opened, tcp(A, through.pod, of, ACK), through) == DROP, "this node's pod is not beyond the tunnel"


def test_who_speaks_from_here_must_be_the_same(opened: Kernel, through: Through, of: int) -> None:
    opened.take_rows_away()
    assert _out(opened, changed(tcp(A, through.pod, of, ACK), 6, B.mac)) == DROP
    assert _out(opened, tcp(through.pod, A, of, ACK, PORTS)) == DROP, "the other pod is not of this node"
    assert opened.run("from_netdev", tcp(through.pod, A, of, ACK, PORTS)).verdict != REDIRECT


def test_any_change_ends_it(opened: Kernel, through: Through, of: int) -> None:
    made = tables()
    del made.ipcache[through.pod.ip(of), 32 if of == 4 else 128]
    opened.load(made)
    opened.take_rows_away()
    assert _out(opened, tcp(A, through.pod, of, ACK)) == DROP
    assert _in(opened, tcp(through.pod, A, of, ACK, PORTS), through) == DROP
