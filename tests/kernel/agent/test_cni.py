"""Pods through the real plugin: every command of the specification, and what happens when something is away. Dual stack
throughout; what each family does alone is in test_families.py."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kilim.agent.bpf import layout
from kilim.agent.bpf.maps import Map
from kilim.agent.bpf.pins import find_pin
from kilim.agent.netlink.session import open_netlink
from kilim.lab.netns import in_netns
from tests.kernel.agent.cluster import IPV4, IPV6, Cluster, wait_for

POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "only-a", "namespace": "default"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "b"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}],
    },
}


@pytest.fixture(scope="module")
def cluster(name_prefix: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(name_prefix, tmp_path_factory.mktemp("agent"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def labels(app: str) -> dict[str, object]:
    return {"args": {"cni": {"labels": [{"key": "app", "value": app}]}}}


def addresses_of(result: dict[str, Any]) -> list[str]:
    return [str(each["address"]).partition("/")[0] for each in result["ips"]]


@contextmanager
def served(cluster: Cluster, pod: str, addresses: list[str]) -> Iterator[None]:
    with ExitStack() as listeners:
        for address in addresses:
            listeners.enter_context(cluster.listen(pod, address))
        yield


def reached(cluster: Cluster, pod: str, addresses: list[str]) -> list[bool]:
    return [cluster.connect(pod, address) for address in addresses]


def test_the_life_of_a_pod(cluster: Cluster) -> None:
    result = cluster.cni("ADD", "a", **labels("a"))
    again = cluster.cni("ADD", "a", **labels("a"))
    assert again == result
    assert [each["gateway"] for each in result["ips"]] == ["169.254.1.1", "fe80::1"]
    assert cluster.table("endpoints") == cluster.table("endpoints", kernel=False) != []
    assert cluster.cni("CHECK", "a", prevResult=result) == {}
    assert cluster.cni("CHECK", "a", prevResult=result | {"ips": result["ips"][:1]})["code"] == 101
    assert cluster.cni("STATUS") == {}
    for _ in range(2):
        assert cluster.cni("DEL", "a") == {}
    assert cluster.links() == set()
    assert cluster.cni("CHECK", "a", prevResult=result)["code"] == 101
    wait_for("the row to go", lambda: cluster.table("endpoints") == [])
    assert cluster.endpoints() == set()


def test_policy_is_in_place_when_add_answers(cluster: Cluster) -> None:
    cluster.apply(POLICY)
    client, other = cluster.cni("ADD", "a", **labels("a")), cluster.cni("ADD", "x", **labels("x"))
    server = addresses_of(cluster.cni("ADD", "b", **labels("b")))
    with served(cluster, "b", server):
        assert reached(cluster, "x", server) == [False, False]
        assert reached(cluster, "a", server) == [True, True]
    assert len({*addresses_of(client), *addresses_of(other), *server}) == 6
    for pod in "abx":
        cluster.cni("DEL", pod)


def test_addresses_can_be_asked_for(cluster: Cluster) -> None:
    result = cluster.cni("ADD", "a", runtimeConfig={"ips": ["fd00:10:61:7::9/64", "10.61.7.9/32"]})
    assert addresses_of(result) == ["10.61.7.9", "fd00:10:61:7::9"]
    for ips in (["10.61.7.9/32"], ["10.61.7.10/32", "fd00:10:61:7::9"]):
        taken = cluster.cni("ADD", "b", runtimeConfig={"ips": ips})
        assert taken["code"] == 7 and "in use" in taken["msg"]
    for foreign in ("10.1.1.1/32", "fd00:1::1"):
        assert "none of the node's" in cluster.cni("ADD", "b", runtimeConfig={"ips": [foreign]})["msg"]
    assert len(cluster.links()) == 1
    other = cluster.cni("ADD", "b", runtimeConfig={"ips": ["fd00:10:61:7::a"]})
    assert addresses_of(other)[1] == "fd00:10:61:7::a"
    for pod in "ab":
        cluster.cni("DEL", pod)


def test_garbage_is_what_the_runtime_does_not_name(cluster: Cluster) -> None:
    for pod in "ab":
        cluster.cni("ADD", pod)
    valid = [{"containerID": "c-a", "ifname": "eth0"}]
    assert cluster.cni("GC", **{"cni.dev/valid-attachments": valid}) == {}
    wait_for("the endpoint to go", lambda: cluster.endpoints() == {"a"})
    assert len(cluster.links()) == 1
    cluster.cni("DEL", "a")


def test_a_namespace_that_is_not_there(cluster: Cluster, tmp_path: Path) -> None:
    before = cluster.links()
    netns = cluster.pod_netns
    cluster.pod_netns = lambda name: tmp_path / "none"  # type: ignore[method-assign]
    try:
        answer = cluster.cni("ADD", "gone")
    finally:
        cluster.pod_netns = netns  # type: ignore[method-assign]
    assert answer["code"] == 4 and "CNI_NETNS" in answer["msg"]
    assert cluster.links() == before and "gone" not in cluster.endpoints()


def test_a_restarted_agent_keeps_pods_and_connections(cluster: Cluster) -> None:
    cluster.apply(POLICY)
    cluster.cni("ADD", "a", **labels("a"))
    cluster.cni("ADD", "x", **labels("x"))
    server = addresses_of(cluster.cni("ADD", "b", **labels("b")))
    before = cluster.status()
    with served(cluster, "b", server):
        for number, attach in ((signal.SIGKILL, "clsact"), (signal.SIGTERM, "tcx")):
            cluster.kill("agent", number)
            assert (reached(cluster, "a", server), reached(cluster, "x", server)) == ([True] * 2, [False] * 2)
            cluster.start_agent("--datapath-attach", attach)
            wait_for("the agent to be in sync", lambda: cluster.status().in_sync)
            after = cluster.status()
            assert (after.seq, after.table_digest) == (before.seq, before.table_digest)
            assert (reached(cluster, "a", server), reached(cluster, "x", server)) == ([True] * 2, [False] * 2)
    for table in ("ipcache", "endpoints", "subjects", "policy"):
        assert cluster.table(table) == cluster.table(table, kernel=False)
    for pod in "abx":
        cluster.cni("DEL", pod)


def test_links_that_were_never_finished_go_at_the_next_start(cluster: Cluster) -> None:
    cluster.cni("ADD", "a")
    kept = cluster.links()
    others = {"lxc0123456789ac": "0a:5a:00:00:00:03", "lxc0123456789a": "0a:11:00:00:00:03"}
    cluster.kill("agent")
    try:
        for name, mac in {"lxc0123456789b": "0a:5a:00:00:00:04", **others}.items():
            in_netns(cluster.node_netns, partial(make_pair, name, mac))
        cluster.start_agent()
        assert cluster.links() == kept | others.keys()
    finally:
        for name in others:
            in_netns(cluster.node_netns, partial(delete_link, name))
    cluster.cni("DEL", "a")


def make_pair(name: str, mac: str) -> None:
    """As the first half of a link's creation leaves it."""
    with open_netlink() as ipr:
        ipr.link("add", ifname=name, kind="veth", address=mac, peer={"ifname": f"p{name[-8:]}"})


def delete_link(name: str) -> None:
    with open_netlink() as ipr:
        ipr.link("del", ifname=name)


def test_without_control_plane(cluster: Cluster) -> None:
    cluster.cni("ADD", "a", **labels("a"))
    server = addresses_of(cluster.cni("ADD", "b", **labels("a")))
    cluster.kill("replica")
    wait_for("the loss to be noticed", lambda: not cluster.status().connected)
    started_at = time.monotonic()
    answer = cluster.cni("ADD", "z")
    assert answer["code"] == 11 and time.monotonic() - started_at < 4
    assert len(cluster.links()) == 2  # taken back
    assert cluster.cni("STATUS")["code"] == 50
    cluster.kill("agent")
    cluster.start_agent()
    with served(cluster, "b", server):
        assert reached(cluster, "a", server) == [True, True]
    assert cluster.cni("DEL", "a") == {}
    cluster.start_replica()
    wait_for("the endpoint to be taken out of the log", lambda: cluster.endpoints() == {"b"})
    assert set(addresses_of(cluster.cni("ADD", "z"))).isdisjoint(server)
    for pod in "bz":
        cluster.cni("DEL", pod)


def test_the_node_has_its_devices(cluster: Cluster) -> None:
    enter = ["nsenter", f"--net={cluster.node_netns}", "--"]
    shown = subprocess.run(
        [*enter, "ip", "-d", "link", "show", "kilim_vxlan"], capture_output=True, text=True, check=True
    )
    assert "external" in shown.stdout and "dstport 8472" in shown.stdout and "mtu 1450" in shown.stdout
    result = cluster.cni("ADD", "a")
    families = ((IPV4, "-4", " scope link"), (IPV6, "-6", ""))
    for address, (family, option, scope) in zip(addresses_of(result), families, strict=True):
        shown = subprocess.run([*enter, "ip", option, "route"], capture_output=True, text=True, check=True)
        assert f"{address} dev lxc" in shown.stdout and f"proto 120{scope} src {family.node_ip}" in shown.stdout
    cluster.cni("DEL", "a")


def test_the_sockets_are_for_root_only(cluster: Cluster) -> None:
    for name in ("cni.sock", "agent.sock"):
        assert (cluster.run_dir / name).stat().st_mode & 0o777 == 0o600


def test_the_agent_goes_on_while_it_lists_connections(cluster: Cluster) -> None:
    ct = Map.open(find_pin(cluster.bpf_root / "maps", "ct"))
    keys, entries = np.zeros(60_000, layout.CT_KEY), np.zeros(60_000, layout.CT_ENTRY)
    keys["port_lo"], keys["protocol"], entries["expires"] = np.arange(60_000), 17, 0xFFFFFFFF
    try:
        ct.update(keys, entries)
        with ThreadPoolExecutor(1) as other:
            listing = other.submit(cluster.table, "ct", timeout_s=60.0)
            answered = 0
            while not listing.done():
                cluster.status()
                answered += 1
            assert len(listing.result()) >= 60_000
        assert answered > 5, "once before and once after would be no wonder"
    finally:
        ct.delete(keys)
        os.close(ct.fd)
