"""What the log has of pod CIDRs, also where it cannot be read."""

from kilim.agent.core.node_routes import NodeRoute, own_pod_cidrs, plan_node_routes
from kilim.model.address import parse_ip
from kilim.model.nouns import Node

ONE, OTHER = parse_ip("192.0.2.1"), parse_ip("192.0.2.2")


def test_what_is_no_cidr_keeps_none_of_the_others_away() -> None:
    broken = Node("n2", OTHER, ("10.61.2.0/24", "10.61.2.7/24", "pods", "10.61.3.0/24"))
    own = Node("n1", ONE, ("10.61.1.0/33", "10.61.1.0/24"))
    way = NodeRoute(OTHER, ONE)
    assert plan_node_routes([broken, own], "n1", [ONE]) == {"10.61.2.0/24": way, "10.61.3.0/24": way}
    assert own_pod_cidrs([broken, own], "n1") == ["10.61.1.0/24"]
