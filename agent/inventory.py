"""What is on this node and what is spoken for: links, addresses, endpoint ids, CNI calls under way. In memory only.

Easy to get wrong: an address is in use while the log has it or a link has it, whichever ends last.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from kilim.agent.cni import spec
from kilim.agent.cni.requests import PodRequest
from kilim.agent.cni.spec import CniError
from kilim.agent.core.ipam import AddressNotOurs, AddressPool, PoolExhausted
from kilim.agent.core.link import LocalLink, PodLink, link_name
from kilim.agent.core.reconcile import choose_endpoint_id
from kilim.agent.replica import Replica
from kilim.model.address import format_ip, parse_cidr
from kilim.model.nouns import Endpoint


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """`pod_cidrs` as configured; the log's count where it has some."""

    name: str
    ip: int
    mtu: int
    route_mtu: int
    pod_cidrs: tuple[str, ...]


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    calls: int = 0


class Inventory:
    """`ifindex_of` is written here and read by the enforcement; `replica` gives the present one."""

    def __init__(self, node: NodeFacts, replica: Callable[[], Replica], ifindex_of: MutableMapping[int, int]) -> None:
        self.node = node
        self.touched: set[str] = set()
        self._replica = replica
        self._ifindex_of = ifindex_of
        self._links: dict[str, LocalLink] = {}
        self._turns: dict[str, _Turn] = {}
        self._reserved_ips: set[int] = set()
        self._reserved_ids: set[int] = set()
        self._last_id = 0
        self._pool = AddressPool(())

    def links(self) -> list[LocalLink]:
        return list(self._links.values())

    def link(self, request: PodRequest) -> LocalLink | None:
        return self._links.get(link_name(request.container_id, request.ifname))

    def remember(self, link: LocalLink) -> None:
        self._links[link.name] = link
        self._ifindex_of[link.ip] = link.ifindex

    def forget(self, link: LocalLink) -> None:
        if self._links.get(link.name) == link:
            del self._links[link.name]
        if self._ifindex_of.get(link.ip) == link.ifindex:
            del self._ifindex_of[link.ip]

    def logged(self, request: PodRequest) -> Endpoint | None:
        """The log's entry for this very container."""
        endpoints = self._replica().own_endpoints
        named = endpoints.get(request.key)
        if named is not None and named.container_id == request.container_id:
            return named
        return next((each for each in endpoints.values() if each.container_id == request.container_id), None)

    def wanted(self, request: PodRequest, ip: int) -> PodLink:
        node = self.node
        return PodLink(
            request.namespace, request.pod, request.container_id, request.ifname, request.netns,
            ip, node.ip, node.mtu, node.route_mtu,
        )  # fmt: skip

    def pool(self) -> AddressPool:
        node = self._replica().state.nodes.get(self.node.name)
        cidrs = tuple(parse_cidr(each) for each in (node.pod_cidrs if node else self.node.pod_cidrs))
        if cidrs != self._pool.cidrs:
            self._pool = AddressPool(cidrs)
            self._pool.start_after(self._used_ips())
        return self._pool

    @contextmanager
    def reserve(self, request: PodRequest) -> Iterator[tuple[int, int]]:
        """Address and endpoint id for an ADD: those it has already, or free ones. Raises CniError."""
        known, logged = self.link(request), self.logged(request)
        held = known.ip if known else logged.ip if logged else None
        ip = held if held is not None and request.ip in (None, held) else self._choose_ip(request.ip)
        endpoint_id = logged.endpoint_id if logged is not None else self._choose_id()
        self._reserved_ips.add(ip)
        self._reserved_ids.add(endpoint_id)
        try:
            yield ip, endpoint_id
        finally:
            self._reserved_ips.discard(ip)
            self._reserved_ids.discard(endpoint_id)

    def busy(self) -> set[str]:
        """Pods that a call is about now, or was since `touched` was cleared."""
        return self.touched | self._turns.keys()

    def is_quiet(self) -> bool:
        """No call is about any pod now."""
        return not self._turns

    def is_stale(self, endpoint: Endpoint) -> bool:
        """The log still has exactly this endpoint, and no link of ours is its container's."""
        logged = self._replica().own_endpoints.get(f"{endpoint.namespace}/{endpoint.name}")
        identity = (endpoint.container_id, endpoint.ip)
        if logged is None or (logged.container_id, logged.ip) != identity:
            return False
        return all((link.container_id, link.ip) != identity for link in self._links.values())

    @asynccontextmanager
    async def alone(self, key: str) -> AsyncIterator[None]:
        """One call about a pod at a time."""
        turn = self._turns.setdefault(key, _Turn())
        turn.calls += 1
        self.touched.add(key)
        try:
            async with turn.lock:
                yield
        finally:
            turn.calls -= 1
            if not turn.calls:
                del self._turns[key]

    def _choose_ip(self, asked: int | None) -> int:
        pool, used = self.pool(), self._used_ips()
        try:
            if asked is None:
                return pool.choose(used.__contains__)
            pool.check(asked)
        except PoolExhausted as error:
            raise CniError(spec.POOL_EXHAUSTED if pool.cidrs else spec.TRY_AGAIN_LATER, str(error)) from None
        except AddressNotOurs as error:
            raise CniError(spec.INVALID_CONFIG, f"runtimeConfig.ips: {error}") from None
        if asked in used:
            raise CniError(spec.INVALID_CONFIG, f"runtimeConfig.ips: {format_ip(asked)} is in use")
        return asked

    def _choose_id(self) -> int:
        used = self._reserved_ids | {row.endpoint_id for row in self._replica().tables.endpoints.values()}
        self._last_id = choose_endpoint_id(used, self._last_id)
        return self._last_id

    def _used_ips(self) -> set[int]:
        logged = {each.ip for each in self._replica().own_endpoints.values()}
        return logged | {link.ip for link in self._links.values()} | self._reserved_ips
