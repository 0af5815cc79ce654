"""Clusters of one address family: the same life of a pod without the other."""

from collections.abc import Iterator

import pytest

from tests.kernel.agent.cluster import IPV4, IPV6, Cluster, Family, wait_for
from tests.kernel.agent.test_cni import POLICY, addresses_of, labels, reached, served


@pytest.fixture(params=[IPV4, IPV6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> Family:
    assert isinstance(request.param, Family)
    return request.param


@pytest.fixture
def cluster(name_prefix: str, tmp_path_factory: pytest.TempPathFactory, family: Family) -> Iterator[Cluster]:
    made = Cluster(name_prefix, tmp_path_factory.mktemp("agent"), (family,))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_pods_have_the_one_address_and_their_policy(cluster: Cluster, family: Family) -> None:
    cluster.apply(POLICY)
    results = {pod: cluster.cni("ADD", pod, **labels(pod)) for pod in "abx"}
    assert all(len(result["ips"]) == len(result["routes"]) == 1 for result in results.values())
    assert cluster.cni("CHECK", "a", prevResult=results["a"]) == {}
    [other] = {IPV4, IPV6} - {family}
    refused = cluster.cni("ADD", "c", runtimeConfig={"ips": [other.free_ip]})
    assert refused["code"] == 7 and "none of the node's pod CIDRs" in refused["msg"]
    server = addresses_of(results["b"])
    with served(cluster, "b", server):
        assert (reached(cluster, "a", server), reached(cluster, "x", server)) == ([True], [False])
        cluster.kill("agent")
        cluster.start_agent()
        wait_for("the agent to be in sync", lambda: cluster.status().in_sync)
        assert (reached(cluster, "a", server), reached(cluster, "x", server)) == ([True], [False])
    assert cluster.table("endpoints") == cluster.table("endpoints", kernel=False) != []
    for pod in "abx":
        assert cluster.cni("DEL", pod) == {}
    wait_for("the rows to go", lambda: cluster.table("endpoints") == [])
