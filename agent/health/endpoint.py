"""The node's health endpoint: a namespace of this process, connected like a pod, which answers ICMP by its kernel.

Easy to get wrong: it ends with the agent and the next agent makes it anew, with the address, the id and so the MAC
addresses that the log has for it: nobody else notices but by probes that fail meanwhile.
"""

import asyncio
from typing import Protocol

import structlog

from kilim.agent.backoff import Backoff
from kilim.agent.cni.requests import PodRequest
from kilim.agent.cni.spec import CniError
from kilim.agent.core.link import link_name
from kilim.agent.health.http import Responder
from kilim.agent.health.sockets import NewNamespace
from kilim.agent.inventory import Inventory
from kilim.model.address import is_ipv6
from kilim.model.nouns import HEALTH_NAMESPACE

log = structlog.get_logger(__name__)

_IFNAME = "eth0"
_LOOK_S = 5.0


class Connects(Protocol):
    async def add(self, request: PodRequest) -> object: ...
    async def faults(self, request: PodRequest) -> list[str]: ...


def health_container(node: str) -> str:
    """What its link and its endpoint in the log are known by, in place of a container's id."""
    return f"health-{node}"


def health_link(node: str) -> str:
    """The name of its link on the node."""
    return link_name(health_container(node), _IFNAME)


def health_key(node: str) -> str:
    return f"{HEALTH_NAMESPACE}/{node}"


class HealthEndpoint:
    """`namespace` is there from the start, `is_up` says whether it is connected."""

    def __init__(self, node: str, inventory: Inventory, pods: Connects, port: int) -> None:
        self.namespace = NewNamespace()
        self.is_up = False
        self._node = node
        self._inventory = inventory
        self._pods = pods
        self._port = port
        self._addresses = ["::" if is_ipv6(ip) else "0.0.0.0" for ip in inventory.node.ips]
        inventory.kept.add(health_key(node))

    @property
    def ips(self) -> tuple[int, ...]:
        link = next((each for each in self._inventory.links() if each.key == health_key(self._node)), None)
        return link.ips if link is not None and self.is_up else ()

    async def run(self) -> None:
        """Makes it, and makes it again where something of it is gone."""
        responder, backoff, told = Responder(), Backoff(0.1, 5.0), ""
        try:
            while True:
                try:
                    await self._look(responder)
                except (CniError, OSError) as error:
                    self.is_up = False
                    if told != str(error):
                        log.info("the health endpoint is not there yet", node=self._node, reason=str(error))
                    told = str(error)
                    await asyncio.sleep(backoff.next_s())
                else:
                    told = ""
                    backoff.reset()
                    await asyncio.sleep(_LOOK_S)
        finally:
            self.is_up = False
            responder.close()
            self.namespace.close()

    async def _look(self, responder: Responder) -> None:
        netns = await self.namespace.open()
        if not responder.listens:
            await responder.listen(self.namespace, self._addresses, self._port)
        request = self._request(netns, ())
        if not await self._pods.faults(request):
            return
        is_known = self._inventory.link(request) is not None
        ips = () if is_known else self._inventory.last_free_ips(health_key(self._node))
        await self._pods.add(self._request(netns, ips))
        self.is_up = True
        log.info("the health endpoint is there", node=self._node, link=health_link(self._node))

    def _request(self, netns: str, ips: tuple[int, ...]) -> PodRequest:
        return PodRequest(
            command="ADD",
            version="",
            container_id=health_container(self._node),
            netns=netns,
            ifname=_IFNAME,
            namespace=HEALTH_NAMESPACE,
            pod=self._node,
            labels=None,
            service_account="",
            ips=ips,
            prev_result=None,
            valid_attachments=None,
            health=True,
        )
