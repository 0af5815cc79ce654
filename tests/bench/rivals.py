"""What Kilim's pods are measured against: networks of plain veths, some with more in their node.

raw: kernel routing alone. iptables, nftables: with kube-proxy's rules and the same network policy (filters.py).
redirect: a program that hands each packet to the other pod and does nothing else (redirect.bpf.c), the floor.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pyroute2 import IPRoute

from kilim.agent.bpf import syscall
from tests.bench.bpfobject import load_redirect
from tests.bench.filters import LOADERS
from tests.bench.rawnet import RawNetwork, node_link

_PAIR = ("podA", "podB")


@dataclass(slots=True)
class Rivals:
    networks: dict[str, RawNetwork]
    links: list[int] = field(default_factory=list)  # descriptors; a link that is not pinned ends with its last

    def build(self, port: int) -> None:
        for name, network in self.networks.items():
            network.build()
            if name in LOADERS:
                LOADERS[name](network.netns("node1"), *map(network.ips, _PAIR), port)
        if "redirect" in self.networks:
            self._redirect(self.networks["redirect"])

    def remove(self) -> None:
        for link in self.links:
            os.close(link)
        for network in self.networks.values():
            network.remove()

    def _redirect(self, network: RawNetwork) -> None:
        ends = {pod: network.run("node1", lambda r, p=pod: _end(r, p)) for pod in _PAIR}  # type: ignore[misc]
        macs = {pod: network.run(pod, lambda r: _link(r, "eth0")[1]) for pod in _PAIR}
        for pod, other in (_PAIR, _PAIR[::-1]):
            program = load_redirect(ends[other][0], macs[other] + ends[other][1])
            hook = (program, ends[pod][0], syscall.TCX_INGRESS)
            self.links.append(network.run("node1", lambda _, h=hook: syscall.create_tcx_link(*h)))  # type: ignore[misc]
            os.close(program)


def _end(route: IPRoute, pod: str) -> tuple[int, bytes]:
    return _link(route, node_link(pod))


def _link(route: IPRoute, name: str) -> tuple[int, bytes]:
    """Index and MAC address."""
    index = int(route.link_lookup(ifname=name)[0])
    address = route.get_links(index)[0].get_attr("IFLA_ADDRESS")
    return index, bytes.fromhex(address.replace(":", ""))


@contextmanager
def rivals(port: int, *names: str) -> Iterator[dict[str, RawNetwork]]:
    """By name; the port that policy opens, where there is one."""
    standing = Rivals({name: RawNetwork(name) for name in names})
    try:
        standing.build(port)
        yield standing.networks
    finally:
        standing.remove()
