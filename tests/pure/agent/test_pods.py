"""Endpoints and links that are left over, while CNI calls go on: nothing of a living pod is taken out of the log."""

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path

from kilim.agent.cache import DiskCache
from kilim.agent.cni.requests import PodRequest
from kilim.agent.core.link import LocalLink, PodLink, link_name
from kilim.agent.enforcement import Enforcement
from kilim.agent.inbox import Inbox
from kilim.agent.inventory import Inventory, NodeFacts
from kilim.agent.pod_namespaces import PodNamespaces
from kilim.agent.pods import Pods
from kilim.agent.replica import Replica
from kilim.model.tables import Tables
from kilim.v1 import controlplane_pb2 as pb
from tests.pure.agent.commits import NODE, some_log


class Rows:
    """Of the kernel: always as desired."""

    def read_rows(self) -> Tables:
        return Tables()

    def has_endpoint(self, ip: int) -> bool:
        return True

    def write(self, *_: object, **__: object) -> None: ...

    def sweep(self, min_age_s: float = 0.0) -> int:
        return 0

    @property
    def held_endpoints(self) -> frozenset[int]:
        return frozenset()

    def take_local_drift(self) -> list[object]:
        return []


class Node:
    """Links, programs and registry of a node at once, in memory."""

    def __init__(self, directory: Path) -> None:
        self.present: list[LocalLink] = []
        self.removed: list[str] = []
        self.reports: list[pb.NodeReport] = []
        self.gone = 0
        self.at_removal = asyncio.Event()
        self.go_on = asyncio.Event()
        replica = Replica(NODE)
        for commit in some_log(8)[:-1]:
            replica.apply_commit(commit)
        self.enforcement = Enforcement(
            replica, Inbox(), DiskCache(directory), Rows(), {}, self.reports.append, lambda: None
        )
        self.enforcement.in_sync = True
        facts = NodeFacts(NODE, (1,), 1500, 1450, ())
        self.inventory = Inventory(facts, lambda: self.enforcement.replica, {})
        self.pods = Pods(
            self.inventory, self, self, self, self.enforcement, Rows(), self, lambda: True, PodNamespaces(None)
        )

    def link(self, pod: str) -> LocalLink:
        endpoint = self.enforcement.replica.own_endpoints[f"default/{pod}"]
        return LocalLink(link_name(f"c-{pod}", "eth0"), 7, "default", pod, f"c-{pod}", 1, endpoint.ips)

    async def addresses(self, cidrs: object) -> set[int]:
        return set()

    async def forget(self, ips: Collection[int]) -> None: ...

    async def read(self) -> list[LocalLink]:
        return list(self.present)

    async def delete_unfinished(self) -> None: ...

    async def create(self, wanted: PodLink) -> LocalLink:
        raise NotImplementedError

    async def configure(self, wanted: PodLink) -> None: ...

    async def raise_host_side(self, wanted: PodLink) -> None: ...

    async def route_again(self, links: Sequence[LocalLink], node_ips: Sequence[int]) -> None: ...

    async def delete(self, name: str) -> None: ...

    async def check(self, wanted: PodLink) -> list[str]:
        return []

    def attach_endpoint(self, ifindex: int, name: str) -> None: ...

    def detach_endpoint(self, name: str) -> None: ...

    def detach_gone(self) -> list[str]:
        self.gone += 1
        return []

    async def register_endpoint(self, request: pb.RegisterEndpointRequest) -> pb.RegisterEndpointResponse:
        return pb.RegisterEndpointResponse()

    async def remove_endpoint(self, request: pb.RemoveEndpointRequest) -> pb.RemoveEndpointResponse:
        self.removed.append(request.name)
        self.at_removal.set()
        await self.go_on.wait()
        return pb.RemoveEndpointResponse()


async def test_a_pod_that_is_added_again_meanwhile_stays(tmp_path: Path) -> None:
    node = Node(tmp_path)
    stale = asyncio.create_task(node.pods.remove_stale())
    await node.at_removal.wait()
    (first,) = node.removed
    other = next(each for each in ("p1", "p3", "p5", "p7") if each != first)
    async with node.inventory.alone(f"default/{other}"):  # as a repeated ADD does
        node.go_on.set()
        await asyncio.sleep(0.05)
        node.inventory.remember(node.link(other))
    assert await stale == 3
    assert other not in node.removed and len(node.removed) == 3


async def test_nobody_adds_a_pod_while_its_removal_is_under_way(tmp_path: Path) -> None:
    node = Node(tmp_path)
    stale = asyncio.create_task(node.pods.remove_stale())
    await node.at_removal.wait()
    assert f"default/{node.removed[0]}" in node.inventory.busy()
    taken = asyncio.create_task(node.inventory.alone(f"default/{node.removed[0]}").__aenter__())
    await asyncio.sleep(0.01)
    assert not taken.done()
    node.go_on.set()
    assert await stale == 4
    await taken


async def test_a_link_that_the_log_does_not_know_is_reported_until_it_goes(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.go_on.set()
    strange = LocalLink("lxc1", 9, "default", "strange", "c-strange", 1, (5,))
    node.present = [*(node.link(pod) for pod in ("p1", "p3", "p5", "p7")), strange]
    assert await node.pods.remove_stale() == 0 and not node.removed
    assert "default/strange (lxc1)" in node.reports[-1].errors[0]
    node.present.pop()
    await node.pods.remove_stale()
    assert not node.reports[-1].errors


async def test_pins_of_devices_that_are_gone_go_when_no_call_is_under_way(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.go_on.set()
    node.pods.attach_restored()
    assert node.gone == 1
    async with node.inventory.alone("default/a"):
        await node.pods.remove_stale()
    assert node.gone == 1
    await node.pods.remove_stale()
    assert node.gone == 2


async def test_what_the_agent_connects_itself_is_nobodys_leftover(tmp_path: Path) -> None:
    """Neither without a link, nor by a runtime's GC, which does not know of it."""
    node = Node(tmp_path)
    node.go_on.set()
    node.inventory.kept.add("default/p3")
    assert await node.pods.remove_stale() == 3
    assert "p3" not in node.removed
    node.inventory.remember(node.link("p3"))
    node.inventory.remember(node.link("p1"))
    node.present = [node.link("p3"), node.link("p1")]
    await node.pods.collect_garbage(garbage_request())
    assert [link.pod for link in node.inventory.links()] == ["p3"]


def garbage_request() -> PodRequest:
    return PodRequest("GC", "1.1.0", "", "", "", "", "", None, "", (), None, ())
