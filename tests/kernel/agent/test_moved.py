"""An agent that starts anew in its own process, as its underlay is another one now: nothing of before stays behind."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kilim.agent.cni import spec
from kilim.agent.netlink.session import open_netlink
from kilim.lab.netns import in_netns
from tests.kernel.agent.cluster import Cluster, wait_for


@pytest.fixture(scope="module")
def cluster(name_prefix: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(name_prefix, tmp_path_factory.mktemp("agent"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def set_mtu(cluster: Cluster, mtu: int) -> None:
    def change() -> None:
        with open_netlink() as ipr:
            ipr.link("set", index=ipr.link_lookup(ifname="wire1")[0], mtu=mtu)

    in_netns(cluster.node_netns, change)


def lines(cluster: Cluster, word: str) -> list[str]:
    return [line for line in (cluster.directory / "agent.log").read_text().splitlines() if word in line]


def start_anew(cluster: Cluster, mtu: int) -> None:
    before = len(lines(cluster, "enforcing"))
    set_mtu(cluster, mtu)
    wait_for("a start anew", lambda: len(lines(cluster, "enforcing")) > before)


def connections(cluster: Cluster) -> int:
    """With the replica."""
    found = 0
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{cluster.pid('agent')}/net/{table}") as rows:
            found += sum(line.split()[2].endswith(":10A4") and line.split()[3] == "01" for line in rows)
    return found


def test_nothing_of_before_stays_open(cluster: Cluster) -> None:
    wait_for("the agent to be in sync", cluster.is_in_sync)
    start_anew(cluster, 1450)
    wait_for("the agent to be in sync", cluster.is_in_sync)
    wait_for("one connection alone", lambda: connections(cluster) == 1)


def test_an_mtu_that_pods_cannot_live_with_ends_no_agent(cluster: Cluster) -> None:
    """It goes on with the one before, and says why."""
    wait_for("the agent to be in sync", cluster.is_in_sync)
    set_mtu(cluster, 1300)
    wait_for("it to be told", lambda: any("leaves 1250 bytes to pods" in each for each in cluster.status().errors))
    start_anew(cluster, 1400)
    wait_for("it to be well", lambda: cluster.is_in_sync() and not cluster.status().errors)


def test_calls_of_runtimes_under_way_are_told_to_come_again(cluster: Cluster) -> None:
    """While no replica answers each of them takes seconds, so there is always one."""
    wait_for("the agent to be in sync", cluster.is_in_sync)
    os.kill(cluster.pid("replica"), signal.SIGSTOP)
    try:
        ended = False

        def add(pod: str) -> list[dict[str, Any]]:
            answers = []
            while not ended:
                answers.append(cluster.cni("ADD", pod))
            return answers

        with ThreadPoolExecutor(3) as runtimes:
            adding = [runtimes.submit(add, pod) for pod in "abc"]
            try:
                start_anew(cluster, 1450)
            finally:
                ended = True
            answers = [answer for each in adding for answer in each.result()]
    finally:
        os.kill(cluster.pid("replica"), signal.SIGCONT)
    assert {answer["code"] for answer in answers} == {spec.TRY_AGAIN_LATER}
    assert not lines(cluster, "a CNI call failed")
    wait_for("the agent to be in sync", cluster.is_in_sync)
    assert cluster.links() == set()
    assert cluster.cni("ADD", "a")["ips"]
