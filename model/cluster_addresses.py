"""Who holds which address, for all nodes at once: the `ipcache` and `endpoints` part of every node's table digest.

A visitor would get wrong: nearly every row is the same on every node, so there is one sum of the rows as a node far
away has them (`far`), and per node only by how much its own sum differs: rows of its own endpoints and of its own
addresses; of a node with IPv6 alone also rows whose tunnels lead elsewhere as seen from there. Every change takes what
an address weighs off, changes who holds it, and puts it back on. Rules: desired.py.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from kilim.model.address import Cidr, host_length
from kilim.model.desired import is_endpoint_id, is_ipv6_only, tunnel_to
from kilim.model.identity import HOST, REMOTE_NODE
from kilim.model.nouns import Node, ips_of
from kilim.model.settings import AuditModes
from kilim.model.tables import AUDITED, EndpointValue, IpcacheKey, IpcacheValue, hash_endpoint, hash_ipcache
from kilim.v1 import events_pb2 as pb


class OwnPart:
    """By how much the sum of one node differs from `far`; kept while the node is in the log or has endpoints."""

    __slots__ = ("name", "known", "ip", "ipv6", "identity", "endpoints", "total")

    def __init__(self, name: str) -> None:
        self.name = name
        self.known = False  # to the log
        self.ip = 0
        self.ipv6 = 0
        self.identity = 0
        self.endpoints = 0
        self.total = 0


class Claim(NamedTuple):
    """One endpoint on its address."""

    key: str
    node: OwnPart
    identity: int
    endpoint_id: int
    audits_itself: bool
    flags: int  # of its `endpoints` row


class ClusterAddresses:
    def __init__(self) -> None:
        self.far = 0  # sum of the ipcache rows as seen from a node with IPv4 that holds none of the addresses
        self._ipv6_only: set[OwnPart] = set()  # nodes with IPv6 alone
        self._follows_ipv6 = False  # whether there are any
        self._far_from_ipv6 = 0  # by how much `far` differs for them
        self.parts: dict[str, OwnPart] = {}
        self.changed: set[str] = set()  # nodes whose own part may differ since somebody emptied this
        self._claims: dict[int, Claim | tuple[Claim, ...]] = {}
        self._nodes_at: dict[int, set[OwnPart]] = {}
        self._cidrs: dict[IpcacheKey, set[int]] = {}
        self._modes = AuditModes(False, {})

    def add(self, part: OwnPart, difference: int) -> None:
        part.total += difference
        self.changed.add(part.name)

    # --- changes

    def change_endpoint(self, key: str, old: pb.Endpoint | None, new: pb.Endpoint | None) -> None:
        if new is not None:
            part = self.part(new.node)
            part.endpoints += 1
            audited, flags = new.policy_audit_mode, self._flags(new.policy_audit_mode, part)
            claim = Claim(key, part, new.identity, new.endpoint_id, audited, flags)
            for ip in ips_of(new):
                address = ip, host_length(ip)
                self._weigh(address, -1)
                others = [each for each in self._claims_of(ip) if each.key != key]
                self._claims[ip] = (*others, claim) if others else claim
                self._weigh(address, 1)
        if old is not None:
            kept = () if new is None else ips_of(new)
            for ip in ips_of(old):
                if ip not in kept:
                    self._drop_claim(key, ip)
            part = self.parts[old.node]
            part.endpoints -= 1
            self._drop_unused(part)

    def _drop_claim(self, key: str, ip: int) -> None:
        address = ip, host_length(ip)
        self._weigh(address, -1)
        left = tuple(claim for claim in self._claims_of(ip) if claim.key != key)
        if left:
            self._claims[ip] = left[0] if len(left) == 1 else left
        else:
            del self._claims[ip]
        self._weigh(address, 1)

    def set_node(self, name: str, node: Node | None) -> None:
        """None: the node has left."""
        part = self.part(name)
        part.known = node is not None
        old, new = (part.ip, part.ipv6), (0, 0) if node is None else (node.ip, node.ipv6)
        identity = 0 if node is None else node.identity
        if (old, part.identity) != (new, identity):
            ips = {each for each in (*old, *new) if each}
            if part.endpoints and old != new:  # their tunnels lead elsewhere now; seldom enough to search for them
                ips.update(self._addresses_on(part))
            if is_ipv6_only(*new) and not self._follows_ipv6:
                self._follows_ipv6 = True
                self._far_from_ipv6 = sum(self._weight_from_ipv6(ip) for ip in self._claims)
            with self._reweighed((each, host_length(each)) for each in ips):
                self._move_node(part, old, new)
                part.identity = identity
            if not self._ipv6_only:
                self._follows_ipv6, self._far_from_ipv6 = False, 0
        self._drop_unused(part)

    def _move_node(self, part: OwnPart, old: tuple[int, int], new: tuple[int, int]) -> None:
        for ip in filter(None, old):
            self._nodes_at[ip].discard(part)
            if not self._nodes_at[ip]:
                del self._nodes_at[ip]
        for ip in filter(None, new):
            self._nodes_at.setdefault(ip, set()).add(part)
        part.ip, part.ipv6 = new
        if is_ipv6_only(*old) != is_ipv6_only(*new):
            if is_ipv6_only(*new):
                self._ipv6_only.add(part)
                self.add(part, self._far_from_ipv6)
            else:
                self._ipv6_only.discard(part)
                self.add(part, -self._far_from_ipv6)

    def set_cidr(self, number: int, old: Cidr | None, new: Cidr | None) -> None:
        if old == new:
            return
        with self._reweighed({(cidr.ip, cidr.prefix_len) for cidr in (old, new) if cidr is not None}):
            if old is not None:
                self._cidrs[old].discard(number)
                if not self._cidrs[old]:
                    del self._cidrs[old]
            if new is not None:
                self._cidrs.setdefault(new, set()).add(number)

    def set_audit_modes(self, modes: AuditModes) -> Iterator[None]:
        """In steps; what is true of a claim is seen to at each of them."""
        if modes == self._modes:
            return
        self._modes = modes
        for ip in [ip for ip in self._claims if self._remoded(ip) != self._claims_of(ip)]:
            if self._claims_of(ip):  # may have gone meanwhile
                self._weigh((ip, host_length(ip)), -1)
                claims = self._remoded(ip)
                self._claims[ip] = claims[0] if len(claims) == 1 else claims
                self._weigh((ip, host_length(ip)), 1)
                yield

    def _remoded(self, ip: int) -> tuple[Claim, ...]:
        claims = self._claims_of(ip)
        return tuple(claim._replace(flags=self._flags(claim.audits_itself, claim.node)) for claim in claims)

    def _flags(self, audits_itself: bool, part: OwnPart) -> int:
        return AUDITED if audits_itself or self._modes.of(part.name) else 0

    def part(self, name: str) -> OwnPart:
        """The node's, begun where there is none."""
        part = self.parts.get(name)
        if part is None:
            part = self.parts[name] = OwnPart(name)
        return part

    def _drop_unused(self, part: OwnPart) -> None:
        if not part.known and not part.endpoints:
            del self.parts[part.name]
            self.changed.add(part.name)

    def _claims_of(self, ip: int) -> tuple[Claim, ...]:
        held = self._claims.get(ip, ())
        return (held,) if isinstance(held, Claim) else held

    def _addresses_on(self, part: OwnPart) -> list[int]:
        return [
            ip
            for ip, held in self._claims.items()
            if (held.node is part if isinstance(held, Claim) else any(claim.node is part for claim in held))
        ]

    # --- sums

    @contextmanager
    def _reweighed(self, keys: Iterable[IpcacheKey]) -> Iterator[None]:
        """Whatever is done within to those who hold these addresses is in the sums afterwards."""
        touched = list(keys)
        for key in touched:
            self._weigh(key, -1)
        yield
        for key in touched:
            self._weigh(key, 1)

    def _weigh(self, key: IpcacheKey, sign: int) -> None:
        ip, prefix_len = key
        at_host = prefix_len == host_length(ip)
        nodes = self._nodes_at.get(ip, set()) if at_host else set()
        claims = self._claims_of(ip) if at_host else ()
        far_row = self._far_row(key, nodes, claims)
        if far_row is None:
            return
        far = hash_ipcache(key, far_row)
        self.far += sign * far
        further = self._weight_from_ipv6(ip) if self._follows_ipv6 and claims and not nodes else 0
        if further:
            self._far_from_ipv6 += sign * further
            for node in self._ipv6_only:
                self.add(node, sign * further)
        for node in nodes:
            self.add(node, sign * (hash_ipcache(key, (HOST, 0)) - far))
        for claim in _first_of_each_node(claims):
            own = 0 if nodes else hash_ipcache(key, (claim.identity, 0)) - far
            if further and claim.node in self._ipv6_only:
                own -= further
            if is_endpoint_id(claim.endpoint_id):
                own += hash_endpoint(ip, EndpointValue(claim.endpoint_id, claim.identity, claim.flags))
            self.add(claim.node, sign * own)

    def _weight_from_ipv6(self, ip: int) -> int:
        """By how much the far row of an address differs for a node with IPv6 alone: its tunnel leads to the IPv6
        address of the owner's node."""
        claims = self._claims_of(ip)
        if not claims or ip in self._nodes_at:
            return 0
        owner = min(claims, key=lambda claim: claim.key)
        node, key = owner.node, (ip, host_length(ip))
        tunnels = (tunnel_to(node.ip, node.ipv6, from_ipv6_only) for from_ipv6_only in (True, False))
        there, far = ((owner.identity, tunnel) for tunnel in tunnels)
        return 0 if there == far else hash_ipcache(key, there) - hash_ipcache(key, far)

    def _far_row(self, key: IpcacheKey, nodes: set[OwnPart], claims: tuple[Claim, ...]) -> IpcacheValue | None:
        if nodes:
            return min(nodes, key=lambda node: node.name).identity or REMOTE_NODE, 0
        if claims:
            owner = min(claims, key=lambda claim: claim.key)
            return owner.identity, tunnel_to(owner.node.ip, owner.node.ipv6, False)
        numbers = self._cidrs.get(key)
        return None if numbers is None else (min(numbers), 0)


def _first_of_each_node(claims: tuple[Claim, ...]) -> Iterable[Claim]:
    if len(claims) <= 1:
        return claims
    first: dict[str, Claim] = {}
    for claim in sorted(claims, key=lambda claim: claim.key):
        first.setdefault(claim.node.name, claim)
    return first.values()
