"""What Kilim's pods are measured against: networks of plain veths, some with more in their node.

raw: kernel routing alone. iptables, nftables: with kube-proxy's rules and the same network policy (filters.py).
redirect: programs that hand each packet to the other pod of the node and do nothing else (redirect.bpf.c), the floor;
redirect_native: the same between podA and podD, by way of the wire.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pyroute2 import IPRoute

from kilim.agent.bpf import syscall
from tests.bench.bpfobject import load_redirect
from tests.bench.filters import LOADERS
from tests.bench.rawnet import UNDERLAY_LINK, RawNetwork, node_link

_PAIR = ("podA", "podB")
_ENDS = {"podA": "node1", "podD": "node2"}


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
            self._same_node(self.networks["redirect"])
        if "redirect_native" in self.networks:
            for pod, node in _ENDS.items():
                self._native(self.networks["redirect_native"], pod, node)

    def remove(self) -> None:
        for link in self.links:
            os.close(link)
        for network in self.networks.values():
            network.remove()

    def _same_node(self, network: RawNetwork) -> None:
        for pod, other in (_PAIR, _PAIR[::-1]):
            self._hang(network, "node1", node_link(pod), _to_pod(network, "node1", other))

    def _native(self, network: RawNetwork, pod: str, node: str) -> None:
        under = network.run(node, lambda r: _link(r, UNDERLAY_LINK)[0])
        self._hang(network, node, node_link(pod), load_redirect("to_wire", under))
        self._hang(network, node, UNDERLAY_LINK, _to_pod(network, node, pod))

    def _hang(self, network: RawNetwork, node: str, link: str, program: int) -> None:
        def work(route: IPRoute) -> int:
            return syscall.create_tcx_link(program, _link(route, link)[0], syscall.TCX_INGRESS)

        self.links.append(network.run(node, work))
        os.close(program)


def _to_pod(network: RawNetwork, node: str, pod: str) -> int:
    index, gateway = network.run(node, lambda r: _link(r, node_link(pod)))
    return load_redirect("to_pod", index, network.run(pod, lambda r: _link(r, "eth0")[1]) + gateway)


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
        yield dict(standing.networks)
    finally:
        standing.remove()
