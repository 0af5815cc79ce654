"""Who may speak: a pod only from its own addresses and MAC, the wire for nobody of the cluster's pods."""

from collections.abc import Iterator

from kilim.model.mac import node_mac, pod_mac
from tests.datapath import places
from tests.datapath.check import Check, Send
from tests.datapath.model.state import Endpoint, Tables
from tests.datapath.places import (
    CIDR,
    FAMILIES,
    NODE,
    OTHER_NODE,
    REMOTE,
    REMOTE_BY_IPV6,
    STRANGER,
    WORLD,
    A,
    B,
    changed,
    echo,
    tcp,
    udp,
)


def checks() -> Iterator[Check]:
    for family in FAMILIES:
        yield from _pod(family)
        yield from _macs(family)
        yield from _wire(family)
        yield from _host(family)


def _pod(family: int) -> Iterator[Check]:
    for place in (STRANGER, NODE, OTHER_NODE, REMOTE, WORLD, CIDR):
        for name, frame in (
            ("TCP", tcp(place, B, family)),
            ("UDP", udp(place, B, family)),
            ("an echo", echo(place, B, family)),
        ):
            yield Check(f"a pod sends {name} over IPv{family} as {place.identity}",
                        [Send("from_endpoint", frame, "INVALID_SOURCE_IP")])  # fmt: skip
    elsewhere = places.tables()
    elsewhere.endpoints[A.ip(family)] = Endpoint(77, A.identity, A.endpoint_id)
    yield Check(f"a pod sends over IPv{family} as one behind another interface",
                [Send("from_endpoint", tcp(A, B, family), "INVALID_SOURCE_IP")], elsewhere)  # fmt: skip
    gone = places.tables()
    del gone.endpoints[A.ip(family)]
    other = 10 - family
    yield Check(f"a pod without an IPv{family} address",
                [Send("from_endpoint", tcp(A, B, family), "INVALID_SOURCE_IP"),
                 Send("from_endpoint", tcp(A, B, other), "redirect")], gone)  # fmt: skip


def _macs(family: int) -> Iterator[Check]:
    for name, mac in (
        ("a neighbor's", pod_mac(B.endpoint_id)),
        ("the host's", node_mac(A.endpoint_id)),
        ("a group's", b"\x33\x33\0\0\0\1"),
        ("all ones as", b"\xff" * 6),
        ("no", bytes(6)),
    ):
        frame = changed(tcp(A, B, family), 6, mac)
        yield Check(f"a pod sends over IPv{family} from {name} MAC address",
                    [Send("from_endpoint", frame, "INVALID_SOURCE_MAC")])  # fmt: skip
    for bit in range(48):
        mac = (int.from_bytes(A.mac, "big") ^ 1 << bit).to_bytes(6, "big")
        yield Check(f"a pod sends over IPv{family} from its MAC address but for bit {bit}",
                    [Send("from_endpoint", changed(tcp(A, B, family), 6, mac), "INVALID_SOURCE_MAC")])  # fmt: skip
    for mac in (b"\xff" * 6, bytes(6), pod_mac(B.endpoint_id)):
        yield Check(f"a pod sends over IPv{family} to MAC address {mac.hex()}",
                    [Send("from_endpoint", changed(tcp(A, B, family), 0, mac), "redirect")])  # fmt: skip


def _wire(family: int) -> Iterator[Check]:
    for place, expected in (
        (NODE, "INVALID_SOURCE_IP"),
        (A, "INVALID_SOURCE_IP"),
        (B, "INVALID_SOURCE_IP"),
        (REMOTE, "INVALID_SOURCE_IP"),
        (REMOTE_BY_IPV6, "INVALID_SOURCE_IP"),
        (OTHER_NODE, "redirect"),
        (WORLD, "redirect"),
        (CIDR, "redirect"),
        (STRANGER, "redirect"),
    ):
        yield Check(f"the wire speaks over IPv{family} as {place.identity}",
                    [Send("from_netdev", tcp(place, B, family), expected)])  # fmt: skip
    for place in (NODE, OTHER_NODE, REMOTE, WORLD, STRANGER):
        yield Check(f"the wire speaks over IPv{family} to {place.identity}, no endpoint of this node",
                    [Send("from_netdev", tcp(WORLD, place, family), "pass")])  # fmt: skip


def _host(family: int) -> Iterator[Check]:
    for place in (NODE, OTHER_NODE, WORLD, CIDR, REMOTE, A, STRANGER):
        yield Check(f"the node's stack sends over IPv{family} to a pod as {place.identity}",
                    [Send("to_endpoint", tcp(place, B, family), "pass")])  # fmt: skip
    for place in (STRANGER, REMOTE, WORLD, NODE):
        yield Check(f"the node's stack sends over IPv{family} to {place.identity}, no endpoint",
                    [Send("to_endpoint", tcp(NODE, place, family), "NO_LOCAL_ENDPOINT")])  # fmt: skip

    def move(tables: Tables) -> None:
        tables.endpoints[B.ip(family)] = Endpoint(77, B.identity, B.endpoint_id)

    yield Check(f"the node's stack sends over IPv{family} out of the wrong interface",
                [Send("to_endpoint", tcp(NODE, B, family), "pass"), move,
                 Send("to_endpoint", tcp(NODE, B, family), "NO_LOCAL_ENDPOINT")])  # fmt: skip
