"""What a CNI call does: address, link, programs, log entry, and the wait until all of it is enforced.

Order of ADD: link, its host side down · at the same time programs (closed, as no row names the address: I9), the inside
of the pod, the log · host side up · enforced here · answer. A failure takes back what was made. Easy to get wrong:
whether the log took a registration may be unknown; then it is one without a link, which `remove_stale` takes out later.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import structlog
from grpc import StatusCode

from kilim.agent.cni import spec
from kilim.agent.cni.requests import Json, PodRequest
from kilim.agent.cni.results import check_prev_result, make_result
from kilim.agent.cni.spec import CniError
from kilim.agent.core.link import LocalLink, PodLink, link_name
from kilim.agent.core.reconcile import plan_leftovers
from kilim.agent.enforcement import Enforcement
from kilim.agent.inventory import Inventory
from kilim.agent.servers import ControlPlaneAway, Refused
from kilim.agent.tables import Kernel
from kilim.model.address import Cidr, format_ip, is_ipv6
from kilim.model.nouns import Endpoint
from kilim.v1 import controlplane_pb2 as pb

log = structlog.get_logger(__name__)

_NAMED = 5


class Links(Protocol):
    async def read(self) -> list[LocalLink]: ...
    async def delete_unfinished(self) -> None: ...
    async def create(self, wanted: PodLink) -> LocalLink: ...
    async def configure(self, wanted: PodLink) -> None: ...
    async def raise_host_side(self, wanted: PodLink) -> None: ...
    async def route_again(self, links: Sequence[LocalLink], node_ips: Sequence[int]) -> None: ...
    async def delete(self, name: str) -> None: ...
    async def check(self, wanted: PodLink) -> list[str]: ...


class Programs(Protocol):
    def attach_endpoint(self, ifindex: int, name: str) -> None: ...
    def detach_endpoint(self, name: str) -> None: ...
    def detach_gone(self) -> list[str]: ...


class ConnectionTable(Protocol):
    async def addresses(self, cidrs: Collection[Cidr]) -> set[int]: ...
    async def forget(self, ips: Collection[int]) -> None: ...


class Registry(Protocol):
    async def register_endpoint(self, request: pb.RegisterEndpointRequest) -> pb.RegisterEndpointResponse: ...
    async def remove_endpoint(self, request: pb.RemoveEndpointRequest) -> pb.RemoveEndpointResponse: ...


class Namespaces(Protocol):
    def add(self, ips: Collection[int], netns: str) -> None: ...
    def remove(self, ips: Collection[int]) -> None: ...
    def keep(self, ips: Collection[int]) -> None: ...


class Pods:
    """`connected`: whether the control plane can be reached as far as we know."""

    def __init__(
        self,
        inventory: Inventory,
        links: Links,
        programs: Programs,
        registry: Registry,
        enforcement: Enforcement,
        kernel: Kernel,
        connections: ConnectionTable,
        connected: Callable[[], bool],
        namespaces: Namespaces,
        enforce_deadline_s: float = 5.0,
        sync_deadline_s: float = 2.0,
    ) -> None:
        self._inventory = inventory
        self._links = links
        self._programs = programs
        self._registry = registry
        self._enforcement = enforcement
        self._kernel = kernel
        self._connections = connections
        self._clearing = asyncio.Lock()
        self._connected = connected
        self._namespaces = namespaces
        self._enforce_deadline_s = enforce_deadline_s
        self._sync_deadline_s = sync_deadline_s

    # --- at start

    async def restore(self) -> None:
        """Links of an agent before this one. Before any CNI call."""
        await self._links.delete_unfinished()
        for link in await self._links.read():
            self._inventory.remember(link)
        await self._links.route_again(self._inventory.links(), self._inventory.node.ips)
        held = {ip for link in self._inventory.links() for ip in link.ips}
        self._inventory.departed |= await self._connections.addresses(self._inventory.pools().cidrs) - held
        self._namespaces.keep(held)

    def attach_restored(self) -> None:
        """Our programs in place of those of the agent before. After the tables are written."""
        for link in self._inventory.links():
            try:
                self._programs.attach_endpoint(link.ifindex, link.name)
            except OSError as error:  # gone since it was read
                log.warning("a pod's link cannot be attached", link=link.name, reason=error.strerror)
                self._inventory.forget(link)
        try:
            self._programs.detach_gone()
        except OSError as error:
            log.warning("programs of devices that are gone stay attached", reason=error.strerror)

    # --- CNI

    async def add(self, request: PodRequest) -> Json:
        if not self._is_ours_already(request):
            await self._wait_synced()
        async with self._inventory.alone(request.key):
            had_link = self._inventory.link(request) is not None
            with self._inventory.reserve(request) as (ips, endpoint_id):
                wanted = self._inventory.wanted(request, ips, endpoint_id)
                if not self._inventory.departed.isdisjoint(ips):
                    await self.clear_departed()
                try:
                    await self._connect(request, wanted)
                except BaseException:
                    if not had_link:  # a repeated ADD does not tear down what worked before
                        await asyncio.shield(self._take_back(wanted))
                    raise
            return make_result(request, wanted)

    async def delete(self, request: PodRequest) -> None:
        known = self._inventory.link(request)
        async with self._inventory.alone(known.key if known else request.key):
            await self._disconnect(link_name(request.container_id, request.ifname))
            logged = self._inventory.logged(request)
            if logged is not None:
                await self._unregister(logged, f"cni DEL {request.container_id[:12]}")

    async def check(self, request: PodRequest) -> None:
        known = self._inventory.link(request)
        if known is not None:
            check_prev_result(request, self._inventory.wanted(request, known.ips, known.endpoint_id))
        if wrong := await self.faults(request):
            raise CniError(spec.CHECK_FAILED, "; ".join(wrong))

    async def faults(self, request: PodRequest) -> list[str]:
        """What is not as ADD left it."""
        known = self._inventory.link(request)
        if known is None:
            return [f"container {request.container_id[:12]} is not connected on this node"]
        wrong = await self._links.check(self._inventory.wanted(request, known.ips, known.endpoint_id))
        return wrong + [f"no policy is in place for {format_ip(ip)}" for ip in self._not_enforced(known.ips)]

    async def status(self) -> None:
        if not self._enforcement.replica.seq:
            raise CniError(spec.NOT_AVAILABLE, "the agent has not seen the log yet")
        if not self._inventory.pools().cidrs:
            raise CniError(spec.NOT_AVAILABLE, "the node has no pod CIDRs yet")
        if "kernel" in self._enforcement.errors:
            raise CniError(spec.LIMITED_CONNECTIVITY, self._enforcement.errors["kernel"])
        if not self._connected():
            raise CniError(spec.NOT_AVAILABLE, "no control plane replica is reachable")

    async def collect_garbage(self, request: PodRequest) -> None:
        if request.valid_attachments is None:
            return
        valid = {link_name(container_id, ifname) for container_id, ifname in request.valid_attachments}
        kept = self._inventory.kept
        for link in [each for each in self._inventory.links() if each.name not in valid and each.key not in kept]:
            async with self._inventory.alone(link.key):
                await self._disconnect(link.name)
        await self.remove_stale()

    # --- what the log and the node say differently

    async def remove_stale(self) -> int:
        """Endpoints of this node without a link are removed from the log, once that is in sync, and links without an
        endpoint are reported. How many were removed."""
        self._inventory.touched.clear()
        links = {link.name: link for link in await self._links.read()}
        busy = self._inventory.busy()
        for gone in [each for each in self._inventory.links() if each.name not in links and each.key not in busy]:
            log.info("a pod's link is gone without DEL", pod=gone.key, link=gone.name)
            self._programs.detach_endpoint(gone.name)
            self._forget(gone)
        if self._inventory.is_quiet():  # no pin is being put in the place of one whose device is gone
            self._programs.detach_gone()
        if not self._enforcement.in_sync:
            return 0
        leftovers = plan_leftovers(self._enforcement.replica.own_endpoints.values(), links.values(), busy)
        self._enforcement.note("links", _unknown(leftovers.links))
        removed = 0
        for endpoint in leftovers.endpoints:
            async with self._inventory.alone(f"{endpoint.namespace}/{endpoint.name}"):
                if self._inventory.is_stale(endpoint):  # still: a repeated ADD may have been faster
                    await self._unregister(endpoint, "no such container on the node")
                    removed += 1
        return removed

    async def clear_departed(self) -> None:
        """Connections of addresses that were pods' go, so that who gets one next has none of another's."""
        async with self._clearing:
            if ips := {ip for ip in self._inventory.departed if not self._kernel.has_endpoint(ip)}:
                await self._connections.forget(ips)
                self._inventory.departed -= ips

    # --- steps

    async def _wait_synced(self) -> None:
        """A log that we have not caught up with may have given our addresses and ids away, to what an agent before us
        registered in its last moment."""
        try:
            async with asyncio.timeout(self._sync_deadline_s):
                await self._enforcement.synced.wait()
        except TimeoutError:
            raise CniError(spec.TRY_AGAIN_LATER, "the agent has not caught up with the log since it started") from None

    def _is_ours_already(self, request: PodRequest) -> bool:
        """The health endpoint has no runtime that would ask again: where the log has it, it comes without a control
        plane. Nobody but this node gives its name, address and id away."""
        return request.health and self._inventory.logged(request) is not None

    async def _connect(self, request: PodRequest, wanted: PodLink) -> None:
        try:
            link = await self._links.create(wanted)
        except FileNotFoundError:
            raise CniError(spec.INVALID_ENVIRONMENT, f"CNI_NETNS: there is no {wanted.netns}") from None
        had_rows = not self._not_enforced(wanted.ips)  # of the link that was there before, maybe another one
        self._inventory.remember(link)
        self._namespaces.add(wanted.ips, wanted.netns)
        # Attaching waits for the kernel's grace periods, some 10 ms each.
        attaching = asyncio.ensure_future(asyncio.to_thread(self._programs.attach_endpoint, link.ifindex, link.name))
        registering = asyncio.ensure_future(self._register(request, wanted))
        try:
            await self._links.configure(wanted)
            await attaching
            await self._links.raise_host_side(wanted)
            seq = await registering
        finally:
            registering.cancel()
            await asyncio.wait([attaching, registering])
        try:
            async with asyncio.timeout(self._enforce_deadline_s):
                await self._enforcement.wait_enforced(seq)
        except TimeoutError:
            late = f"seq {seq} is not enforced on this node after {self._enforce_deadline_s:g} s"
            raise CniError(spec.TRY_AGAIN_LATER, late) from None
        if had_rows or self._not_enforced(wanted.ips):
            self._enforcement.rejoin()
        if missing := self._not_enforced(wanted.ips):
            raise CniError(spec.TRY_AGAIN_LATER, f"no policy is in place for {format_ip(missing[0])}")

    def _not_enforced(self, ips: tuple[int, ...]) -> list[int]:
        return [ip for ip in ips if not self._kernel.has_endpoint(ip)]

    async def _register(self, request: PodRequest, wanted: PodLink) -> int:
        logged = self._inventory.logged(request) if self._is_ours_already(request) else None
        if logged is not None and (logged.ips, logged.endpoint_id) == (wanted.ips, wanted.endpoint_id):
            return 0
        message = pb.RegisterEndpointRequest(
            node=self._enforcement.replica.node,
            namespace=request.namespace,
            name=request.pod,
            container_id=request.container_id,
            ip=_text_of(wanted.ips, ipv6=False),
            ipv6=_text_of(wanted.ips, ipv6=True),
            endpoint_id=wanted.endpoint_id,
            labels=request.labels or {},
            service_account=request.service_account,
            health=request.health,
        )
        try:
            return int((await self._registry.register_endpoint(message)).seq)
        except ControlPlaneAway as error:
            raise CniError(spec.TRY_AGAIN_LATER, "no control plane replica took the registration", str(error)) from None
        except Refused as error:
            # Not registered yet, or an address or id that the log gave away meanwhile: the next try takes another.
            passing = error.code is StatusCode.NOT_FOUND or (
                error.code is StatusCode.FAILED_PRECONDITION and not request.ips
            )
            code = spec.TRY_AGAIN_LATER if passing else spec.REFUSED
            raise CniError(code, f"the control plane refused the endpoint: {error}") from None

    async def _unregister(self, endpoint: Endpoint, cause: str) -> None:
        message = pb.RemoveEndpointRequest(
            node=self._enforcement.replica.node,
            namespace=endpoint.namespace,
            name=endpoint.name,
            container_id=endpoint.container_id,
            cause=cause,
        )
        try:
            if not self._connected():
                raise ControlPlaneAway("not connected")  # sooner than by its deadline
            await self._registry.remove_endpoint(message)
        except (ControlPlaneAway, Refused) as error:
            log.warning(
                "the endpoint stays in the log for now", pod=f"{endpoint.namespace}/{endpoint.name}", reason=str(error)
            )

    async def _take_back(self, wanted: PodLink) -> None:
        try:
            await self._disconnect(wanted.name)
        except OSError as error:
            log.error("a pod's link could not be taken back", link=wanted.name, reason=error.strerror)

    async def _disconnect(self, name: str) -> None:
        await self._links.delete(name)
        self._programs.detach_endpoint(name)
        for link in self._inventory.links():
            if link.name == name:
                self._forget(link)

    def _forget(self, link: LocalLink) -> None:
        self._namespaces.remove(link.ips)
        self._inventory.forget(link)


def _text_of(ips: tuple[int, ...], *, ipv6: bool) -> str:
    return next((format_ip(ip) for ip in ips if is_ipv6(ip) is ipv6), "")


def _unknown(links: tuple[LocalLink, ...]) -> str:
    if not links:
        return ""
    named = ", ".join(f"{link.key} ({link.name})" for link in links[:_NAMED])
    more = f" and {len(links) - _NAMED} more" if len(links) > _NAMED else ""
    return f"pods that the log does not know, closed until their runtime calls DEL or GC: {named}{more}"
