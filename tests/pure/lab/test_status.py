"""What is said of a lab, and how its members are started; nothing of it runs."""

from kilim.kvstore.etcd_flags import store_flags
from kilim.lab.commands import etcd_process
from kilim.lab.status import lab_status
from kilim.lab.topology import External, Lab, default_node_plans, planned_etcd, planned_nodes, planned_replicas

LAB = Lab(
    "flnone",
    "10.244.0.0/16",
    planned_nodes(default_node_plans(1)),
    planned_replicas([1]),
    planned_etcd([2]),
    (External("web", "198.51.100.10"),),
)


async def test_netns_means_the_same_everywhere() -> None:
    status = await lab_status(LAB)
    for kind in ("nodes", "replicas", "etcd", "externals"):
        (item,) = status[kind]
        assert item["netns"] == item["namespace"] and item["netns"].startswith("kilim-flnone"), kind


def test_members_of_etcd_are_limited_as_an_embedded_one_is() -> None:
    assert set(store_flags()) <= set(etcd_process(LAB, LAB.etcd[0]).argv)
