"""Nobody is reached in a node's own pod CIDRs but its pods."""

import socket
from pathlib import Path

from kilim.agent.netlink.leftovers import read_leftovers
from kilim.agent.netlink.node_routes import apply_own_cidrs
from kilim.agent.netlink.session import open_netlink
from kilim.lab.netns import in_netns
from tests.kernel.agent.test_node import IPV4, IPV6, _have, node, run

__all__ = ["node"]


def test_nobody_is_reached_in_the_nodes_own_cidrs_but_pods(node: Path) -> None:
    in_netns(node, lambda: _have("wire0", IPV4, IPV6))
    own, pod = ["10.61.1.0/24", "fd00:61:1::/64"], ("10.61.1.7", "fd00:61:1::7")

    def set_up() -> None:
        with open_netlink() as ipr:
            index = ipr.link_lookup(ifname="wire0")[0]
            ipr.link("set", index=index, state="up")
            for anywhere, gateway in (("0.0.0.0/0", "192.0.2.2"), ("::/0", "2001:db8::2")):
                ipr.route("add", dst=anywhere, gateway=gateway)
            for ip in pod:
                ipr.route("add", dst=f"{ip}/{128 if ':' in ip else 32}", oif=index)
            ipr.route("add", dst="10.61.8.0/24", oif=index)  # somebody else's, in a CIDR that becomes ours

    def ways() -> dict[str, bool]:
        return {ip: _has_way(ip) for ip in (*pod, "10.61.1.8", "fd00:61:1::8", "10.61.8.1", "10.62.0.1", "fd00:62::1")}

    in_netns(node, set_up)
    assert all(in_netns(node, ways).values())
    for _ in range(2):
        run(node, lambda session: apply_own_cidrs(session, [*own, "10.61.8.0/24"], False))
    found = in_netns(node, ways)
    assert [ip for ip, reached in found.items() if not reached] == ["10.61.1.8", "fd00:61:1::8"]
    run(node, lambda session: apply_own_cidrs(session, [], False))
    assert in_netns(node, ways) == found, "nothing goes before the log is here"
    run(node, lambda session: apply_own_cidrs(session, own[:1], True))
    assert [ip for ip, reached in in_netns(node, ways).items() if not reached] == ["10.61.1.8"]
    leftovers = in_netns(node, lambda: [each.remove() or each.what for each in read_leftovers()])  # type: ignore[func-returns-value]
    assert "route 10.61.1.0/24" in leftovers and all(in_netns(node, ways).values())


def _has_way(ip: str) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM) as asking:
        return asking.connect_ex((ip, 9)) == 0
