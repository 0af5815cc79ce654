"""Endpoints in the log against links on the node: what is left over on either side. PURE.

1. An endpoint of this node in the log without a link of its container, and with no CNI call about it under way: its
   pod is gone, it is removed from the log.
2. A link of ours that no endpoint of the log describes, and that no CNI call is about to register: reported, and kept;
   its runtime will call DEL or GC. Its pod stays closed, for no row names its address.

Both are of one container where they have its id and an address in common: a log that knows one address of two, as a
control plane without IPv6 writes it, is no reason to cut a pod off.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from kilim.agent.core.link import LocalLink
from kilim.model.nouns import Endpoint


@dataclass(frozen=True, slots=True)
class Leftovers:
    endpoints: tuple[Endpoint, ...]
    links: tuple[LocalLink, ...]


def plan_leftovers(endpoints: Iterable[Endpoint], links: Iterable[LocalLink], busy: Collection[str]) -> Leftovers:
    """`busy`: keys (namespace/pod) that a CNI call is about right now; nothing is said about those."""
    links = list(links)
    attached = {(link.container_id, ip) for link in links for ip in link.ips}
    logged: set[tuple[str, int]] = set()
    stale = []
    for endpoint in endpoints:
        key = f"{endpoint.namespace}/{endpoint.name}"
        held = {(endpoint.container_id, ip) for ip in endpoint.ips}
        logged |= held
        if key not in busy and held.isdisjoint(attached):
            stale.append(endpoint)
    unknown = [
        link for link in links if link.key not in busy and logged.isdisjoint((link.container_id, ip) for ip in link.ips)
    ]
    return Leftovers(tuple(stale), tuple(unknown))


def choose_endpoint_id(used: Collection[int], after: int) -> int:
    """1..65535, unique on its node; round robin, so that an id is not reused while its records are still read."""
    for step in range(1, 65536):
        candidate = (after + step - 1) % 65535 + 1
        if candidate not in used:
            return candidate
    raise ValueError("all 65535 endpoint ids of the node are in use")
