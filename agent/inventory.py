"""What is on this node and what is spoken for: links, addresses, endpoint ids, CNI calls under way. In memory only.

Easy to get wrong: an address is in use while the log has it or a link has it, whichever ends last. A pod has one of
each family of which its node has one; they are reserved together.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from kilim.agent.cni import spec
from kilim.agent.cni.requests import PodRequest
from kilim.agent.cni.spec import CniError
from kilim.agent.core.ipam import AddressNotOurs, AddressPools, PoolExhausted
from kilim.agent.core.link import LocalLink, PodLink, link_name
from kilim.agent.core.pod_cidrs import readable
from kilim.agent.core.reconcile import choose_endpoint_id, plan_leftovers
from kilim.agent.replica import Replica
from kilim.model.address import Cidr, format_ip, is_ipv6
from kilim.model.nouns import Endpoint


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """`ips`: one per family, IPv4 first. `pod_cidrs` as configured; the log's count where it has some."""

    name: str
    ips: tuple[int, ...]
    mtu: int
    route_mtu: int
    pod_cidrs: tuple[str, ...]


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    calls: int = 0


class Inventory:
    """`ifindex_of` is written here and read by the enforcement; `replica` gives the present one. `kept`: keys of what
    the agent itself has connected, which no runtime knows: neither its GC nor the search for leftovers is about it.
    `departed`: addresses of links that are gone, whose connections the kernel may still have."""

    def __init__(self, node: NodeFacts, replica: Callable[[], Replica], ifindex_of: MutableMapping[int, int]) -> None:
        self.node = node
        self.touched: set[str] = set()
        self.kept: set[str] = set()
        self.departed: set[int] = set()
        self._replica = replica
        self._ifindex_of = ifindex_of
        self._links: dict[str, LocalLink] = {}
        self._turns: dict[str, _Turn] = {}
        self._reserved_ips: set[int] = set()
        self._reserved_ids: set[int] = set()
        self._last_id = 0
        self._pools = AddressPools(())

    def links(self) -> list[LocalLink]:
        return list(self._links.values())

    def link(self, request: PodRequest) -> LocalLink | None:
        return self._links.get(link_name(request.container_id, request.ifname))

    def remember(self, link: LocalLink) -> None:
        self._links[link.name] = link
        for ip in link.ips:
            self._ifindex_of[ip] = link.ifindex

    def forget(self, link: LocalLink) -> None:
        if self._links.get(link.name) == link:
            del self._links[link.name]
            self.departed |= set(link.ips)
        for ip in link.ips:
            if self._ifindex_of.get(ip) == link.ifindex:
                del self._ifindex_of[ip]

    def logged(self, request: PodRequest) -> Endpoint | None:
        """The log's entry for this very container."""
        endpoints = self._replica().own_endpoints
        named = endpoints.get(request.key)
        if named is not None and named.container_id == request.container_id:
            return named
        return next((each for each in endpoints.values() if each.container_id == request.container_id), None)

    def wanted(self, request: PodRequest, ips: tuple[int, ...], endpoint_id: int) -> PodLink:
        node = self.node
        return PodLink(
            request.namespace, request.pod, request.container_id, endpoint_id, request.ifname, request.netns,
            ips, node.ips, node.mtu, node.route_mtu,
        )  # fmt: skip

    def pools(self) -> AddressPools:
        """Of the families of which the node itself has an address."""
        node = self._replica().state.nodes.get(self.node.name)
        families = set(map(is_ipv6, self.node.ips))
        cidrs: tuple[Cidr, ...] = tuple(readable(node.pod_cidrs if node else self.node.pod_cidrs))
        cidrs = tuple(cidr for cidr in cidrs if is_ipv6(cidr.ip) in families)
        if cidrs != self._pools.cidrs:
            self._pools = AddressPools(cidrs)
            self._pools.start_after(self._used_ips(but=self.kept))
        return self._pools

    def last_free_ips(self, key: str) -> tuple[int, ...]:
        """One of each family, as far from those that pods get first as can be: that which the log has for `key` does
        not count as in use. Raises CniError."""
        used, pools = self._used_ips(but={key}), self.pools()
        try:
            return pools.choose_last(used.__contains__)
        except PoolExhausted as error:
            raise CniError(spec.POOL_EXHAUSTED if pools.cidrs else spec.TRY_AGAIN_LATER, str(error)) from None

    @contextmanager
    def reserve(self, request: PodRequest) -> Iterator[tuple[tuple[int, ...], int]]:
        """Addresses and endpoint id for an ADD: those it has already, or free ones; departed ones where they are asked
        for or there are no others. Raises CniError."""
        known, logged = self.link(request), self.logged(request)
        held = known.ips if known else logged.ips if logged else ()
        ips = held if held and set(request.ips) <= set(held) else self._choose_ips(request.ips, held)
        endpoint_id = logged.endpoint_id if logged is not None else self._choose_id(known)
        self._reserved_ips |= set(ips)
        self._reserved_ids.add(endpoint_id)
        try:
            yield ips, endpoint_id
        finally:
            self._reserved_ips -= set(ips)
            self._reserved_ids.discard(endpoint_id)

    def busy(self) -> set[str]:
        """Pods that a call is about now, or was since `touched` was cleared; and what is kept."""
        return self.touched | self._turns.keys() | self.kept

    def is_quiet(self) -> bool:
        """No call is about any pod now."""
        return not self._turns

    def is_stale(self, endpoint: Endpoint) -> bool:
        """The log still has exactly this endpoint, and no link of ours is its container's."""
        logged = self._replica().own_endpoints.get(f"{endpoint.namespace}/{endpoint.name}")
        if logged is None or (logged.container_id, logged.ips) != (endpoint.container_id, endpoint.ips):
            return False
        return bool(plan_leftovers([endpoint], self._links.values(), ()).endpoints)

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

    def _choose_ips(self, asked: tuple[int, ...], held: tuple[int, ...]) -> tuple[int, ...]:
        pools, used = self.pools(), self._used_ips() - set(held)
        try:
            try:
                ips = pools.choose(asked, (used | self.departed).__contains__)
            except PoolExhausted:
                ips = pools.choose(asked, used.__contains__)
        except PoolExhausted as error:
            raise CniError(spec.POOL_EXHAUSTED if pools.cidrs else spec.TRY_AGAIN_LATER, str(error)) from None
        except AddressNotOurs as error:
            raise CniError(spec.INVALID_CONFIG, f"runtimeConfig.ips: {error}") from None
        if taken := used.intersection(asked):
            raise CniError(spec.INVALID_CONFIG, f"runtimeConfig.ips: {format_ip(min(taken))} is in use")
        return ips

    def _choose_id(self, known: LocalLink | None) -> int:
        """That of the link, whose MAC addresses follow from it, if nobody else has it."""
        logged = {row.endpoint_id for row in self._replica().tables.endpoints.values()}
        used = self._reserved_ids | logged | {link.endpoint_id for link in self._links.values() if link is not known}
        if known is not None and known.endpoint_id and known.endpoint_id not in used:
            return known.endpoint_id
        self._last_id = choose_endpoint_id(used, self._last_id)
        return self._last_id

    def _used_ips(self, but: Collection[str] = ()) -> set[int]:
        own = self._replica().own_endpoints.items()
        logged = {ip for key, each in own if key not in but for ip in each.ips}
        return (
            logged
            | {ip for link in self._links.values() if link.key not in but for ip in link.ips}
            | self._reserved_ips
        )
