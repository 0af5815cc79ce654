"""Routes of the node's own stack to the pods of other nodes, and to nobody in its own pod CIDRs, as the log has nodes.

Easy to get wrong: the kernel takes routes away by itself, with a link that goes down or an address that goes. So they
are looked at again from time to time, and soon after they could not be written.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from kilim.agent.core.node_routes import NodeRoute, own_pod_cidrs, plan_node_routes
from kilim.agent.netlink.node_routes import apply_node_routes, apply_own_cidrs
from kilim.agent.netlink.session import NetlinkSession
from kilim.agent.settings import Settings
from kilim.model.nouns import Node
from kilim.model.state import Table

log = structlog.get_logger(__name__)

_LOOK_S = 0.5  # at the log
_AGAIN_S = 10.0  # at the kernel
_SHARE = 100  # of the time that this takes, until the next


class NodeRoutes:
    """`log_nodes`: the nodes as the log has them now, and whether that is in sync: before it is nothing goes (I6)."""

    def __init__(
        self,
        settings: Settings,
        session: NetlinkSession,
        underlay: int,
        log_nodes: Callable[[], tuple[Table[str, Node], bool]],
    ) -> None:
        self._settings = settings
        self._session = session
        self._underlay = underlay
        self._log_nodes = log_nodes
        self._told: object = None

    async def follow(self) -> None:
        """Never ends."""
        applied: tuple[dict[str, bytes], bool] | None = None
        due_s = 0.0
        while True:
            nodes, in_sync = self._log_nodes()
            began_s = time.monotonic()
            if applied != (nodes.data, in_sync) or began_s >= due_s:
                applied = (dict(nodes.data), in_sync)
                await self._apply(self._wanted(nodes), own_pod_cidrs(nodes.values(), self._settings.node_name), in_sync)
                ended_s = time.monotonic()
                due_s = ended_s + max(_AGAIN_S, _SHARE * (ended_s - began_s))
            await asyncio.sleep(_LOOK_S)

    def _wanted(self, nodes: Table[str, Node]) -> dict[str, NodeRoute]:
        settings = self._settings
        if settings.routing_mode == "native" and not settings.auto_direct_node_routes:
            return {}
        return plan_node_routes(nodes.values(), settings.node_name, settings.node_ips)

    async def _apply(self, wanted: dict[str, NodeRoute], own: list[str], in_sync: bool) -> None:
        try:
            await apply_own_cidrs(self._session, own, in_sync)
            beyond = await apply_node_routes(self._session, wanted, self._underlay, in_sync)
        except OSError as error:
            self._tell("routes to other nodes' pods could not be written", reason=str(error))
        else:
            if beyond:
                self._tell("this node itself does not reach pods of nodes that are no neighbours", cidrs=beyond)
            else:
                self._told = None

    def _tell(self, what: str, **about: object) -> None:
        if self._told != (what, about):
            log.warning(what, **about)
        self._told = what, about
