"""Addresses of the node beside those that it is known by: `host`, and nobody else's."""

from collections.abc import Iterator

from tests.datapath import places
from tests.datapath.check import Check, Send
from tests.datapath.places import ALLOW, EGRESS, FAMILIES, INGRESS, NODE_LOCAL, OTHER_NODE, REMOTE, A, B, row, tcp, udp

_HOST, _WORLDS = 1, (2, 10)


def checks() -> Iterator[Check]:
    for family in FAMILIES:
        yield from _sources(family)
        yield from _policy(family)


def _sources(family: int) -> Iterator[Check]:
    tunnel = OTHER_NODE.ipv4, REMOTE.identity
    for who, program, through in (("a pod", "from_endpoint", None), ("the wire", "from_netdev", None),
                                  ("a node, through the tunnel,", "overlay", tunnel)):  # fmt: skip
        yield Check(f"IPv{family}: {who} speaks as another address of the node",
                    [Send(program, tcp(NODE_LOCAL, B, family), "INVALID_SOURCE_IP", through)])  # fmt: skip
    yield Check(f"IPv{family}: to another address of the node there is no other way than its stack",
                [Send("from_endpoint", tcp(A, NODE_LOCAL, family), "pass"),
                 Send("from_endpoint", udp(A, NODE_LOCAL, family, (40000, places.TUNNEL_PORT)), "ENCAPSULATION"),
                 Send("from_netdev", tcp(OTHER_NODE, NODE_LOCAL, family), "pass")])  # fmt: skip


def _policy(family: int) -> Iterator[Check]:
    for allowed in (_HOST, *_WORLDS):
        expected = "pass" if allowed == _HOST else "POLICY_DENIED"
        for direction, frame, program in (
            (EGRESS, tcp(A, NODE_LOCAL, family), "from_endpoint"),
            (INGRESS, tcp(NODE_LOCAL, A, family), "to_endpoint"),
        ):
            made = places.tables()
            places.enforce(made, A)
            made.policy[row(A, direction, allowed)] = ALLOW
            yield Check(f"IPv{family}: another address of the node, by {program}, allowed is {allowed}",
                        [Send(program, frame, expected)], made)  # fmt: skip
