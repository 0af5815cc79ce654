"""The pair of devices of a pod as a value, and the alias by which a process without memory knows it (I7). PURE.

kilim:<namespace>/<pod>:<container id>:<endpoint id>:<address>[,<address>]

An alias has room for 255 bytes; a long pod name is cut, so what identifies a link is (container id, addresses).
Easy to get wrong: the addresses come last, as those of IPv6 have colons too. Pods that an agent before IPv6 connected
have no endpoint id in their alias; they are known all the same, as nothing else would keep them from being taken down.
"""

import hashlib
import re
from dataclasses import dataclass

from kilim.model.address import format_ip, parse_ip

LINK_PREFIX = "lxc"
_ALIAS = "kilim:"
_ALIAS_MAX = 255
_LINK_NAME = re.compile(LINK_PREFIX + "[0-9a-f]{11}")
_ADDRESSES_MAX = 2  # one per family


@dataclass(frozen=True, slots=True)
class LocalLink:
    """The host side of a pod's veth pair, as its alias tells (I7). `endpoint_id` 0: not told. `ips`: IPv4 first."""

    name: str
    ifindex: int
    namespace: str
    pod: str
    container_id: str
    endpoint_id: int
    ips: tuple[int, ...]

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.pod}"


@dataclass(frozen=True, slots=True)
class PodLink:
    """What a pair is to be. `ips`, `node_ips`: one per family, IPv4 first. `route_mtu`: of the default routes, lower
    than the device's by the overlay's header."""

    namespace: str
    pod: str
    container_id: str
    endpoint_id: int
    ifname: str
    netns: str
    ips: tuple[int, ...]
    node_ips: tuple[int, ...]
    mtu: int
    route_mtu: int

    @property
    def name(self) -> str:
        return link_name(self.container_id, self.ifname)

    @property
    def alias(self) -> str:
        tail = f":{self.container_id}:{self.endpoint_id}:{','.join(map(format_ip, self.ips))}"
        return f"{_ALIAS}{self.namespace}/{self.pod}"[: _ALIAS_MAX - len(tail)] + tail


def link_name(container_id: str, ifname: str) -> str:
    return LINK_PREFIX + hashlib.sha256(f"{container_id} {ifname}".encode()).hexdigest()[:11]


def is_link_name(name: str) -> bool:
    return _LINK_NAME.fullmatch(name) is not None


def parse_alias(name: str, ifindex: int, alias: str) -> LocalLink | None:
    """None: not ours."""
    if not name.startswith(LINK_PREFIX) or not alias.startswith(_ALIAS):
        return None
    parts = alias[len(_ALIAS) :].split(":", 3)
    if len(parts) == 3:
        parts.insert(2, "0")
    if len(parts) != 4 or "/" not in parts[0] or not parts[2].isdecimal():
        return None
    namespace, _, pod = parts[0].partition("/")
    addresses = parts[3].split(",")
    if len(addresses) > _ADDRESSES_MAX:
        return None
    try:
        ips = tuple(map(parse_ip, addresses))
    except ValueError:
        return None
    return LocalLink(name, ifindex, namespace, pod, parts[1], int(parts[2]), ips)
