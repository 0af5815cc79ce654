"""Where a node's own stack finds other nodes' pods."""

from kilim.agent.core.node_routes import NodeRoute, plan_node_routes
from kilim.model.address import parse_ip
from kilim.model.nouns import Node

OWN = (parse_ip("192.0.2.1"), parse_ip("2001:db8::1"))
DUAL = Node("n2", parse_ip("192.0.2.2"), ("10.61.2.0/24", "fd00:61:2::/64"), ipv6=parse_ip("2001:db8::2"))


def test_each_family_goes_by_its_own_addresses() -> None:
    assert plan_node_routes([DUAL, Node("n1", OWN[0], ("10.61.1.0/24",))], "n1", OWN) == {
        "10.61.2.0/24": NodeRoute(DUAL.ip, OWN[0]),
        "fd00:61:2::/64": NodeRoute(DUAL.ipv6, OWN[1]),
    }


def test_no_route_where_one_side_has_no_address_of_the_family() -> None:
    assert plan_node_routes([DUAL], "n1", OWN[1:]) == {"fd00:61:2::/64": NodeRoute(DUAL.ipv6, OWN[1])}
    only_ipv6 = Node("n3", 0, ("10.61.3.0/24", "fd00:61:3::/64"), ipv6=parse_ip("2001:db8::3"))
    assert plan_node_routes([only_ipv6], "n1", OWN) == {"fd00:61:3::/64": NodeRoute(only_ipv6.ipv6, OWN[1])}


def test_of_two_nodes_that_claim_a_cidr_the_first_by_name_has_it() -> None:
    other = Node("n9", parse_ip("192.0.2.9"), ("10.61.2.0/24",))
    assert plan_node_routes([other, DUAL], "n1", OWN)["10.61.2.0/24"].gateway == DUAL.ip
