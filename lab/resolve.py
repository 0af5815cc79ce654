"""From the names of a probe (`ns/pod`, `ext:NAME`, `node:NAME`, an entity, an IP) to sockets and addresses of a lab."""

import ipaddress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from kilim.lab.exchange import Target
from kilim.lab.names import external_role
from kilim.lab.pods import RunningPod, by_key
from kilim.lab.scenario import Probe
from kilim.lab.topology import IP_FAMILIES, IPV4, IPV6, Lab
from kilim.model.protocols import PROTOCOL_NUMBERS, of_family


class Unresolvable(Exception):
    """Why a probe cannot be made here; it becomes the message of an `error` verdict."""


@dataclass(frozen=True, slots=True)
class Place:
    """One end of a probe. `answerer` is the name that what listens there gives; None where nobody knows."""

    ips: tuple[str, ...]
    netns: Path | None
    answerer: str | None
    node: str | None


class Way(NamedTuple):
    family: str
    source: str
    target: str


def in_family(probe: Probe, family: str) -> tuple[int, int]:
    """Protocol number and port, or type, as they are there."""
    return of_family(PROTOCOL_NUMBERS[probe.protocol], probe.port, family == IPV6)


class Places:
    def __init__(self, lab: Lab, pods: list[RunningPod]) -> None:
        self._lab = lab
        self._by_name: dict[str, Place] = {}
        for key, pod in by_key(pods).items():
            self._by_name[key] = Place(pod.ips, Path(pod.netns), key, pod.node)
        for external in lab.externals:
            name = f"ext:{external.name}"
            self._by_name[name] = Place(external.ips, lab.netns(external_role(external.name)), name, None)
        for node in lab.nodes:
            name = node_key(node.name)
            self._by_name[name] = Place(node.ips, lab.netns(node.name), name, node.name)
        self._by_ip = {ip: place for place in self._by_name.values() for ip in place.ips}

    def ends(self, probe: Probe) -> tuple[Place, Place]:
        source, target = self._find(probe.source), self._find(probe.target)
        source = source or self._entity(probe.source, target)
        target = target or self._entity(probe.target, source)
        if source is None or target is None:
            raise Unresolvable("both ends are entities")
        return source, target

    def ways(self, probe: Probe) -> list[Way]:
        """One for each family that both ends have and the probe does not leave out, IPv4 first."""
        source, target = self.ends(probe)
        by_family = [{IPV6 if ":" in ip else IPV4: ip for ip in place.ips} for place in (source, target)]
        if not source.ips:  # an entity of which there is no address
            raise Unresolvable(f"{probe.source} is no place to send from")
        ways = [
            Way(family, by_family[0][family], by_family[1][family])
            for family in IP_FAMILIES
            if family in by_family[0] and family in by_family[1] and probe.family in ("", family)
        ]
        if not ways:
            raise Unresolvable(f"the two have no address of {probe.family or 'one family'}")
        return ways

    def targets(self, probe: Probe) -> dict[str, Target]:
        """By family."""
        source, target = self.ends(probe)
        if source.netns is None:
            raise Unresolvable(f"{probe.source} is no place to send from")
        return {
            way.family: Target(
                source.netns, way.target, in_family(probe, way.family)[1], probe.protocol, target.answerer
            )
            for way in self.ways(probe)
        }

    def _find(self, name: str) -> Place | None:
        if name.startswith("svc:"):
            raise Unresolvable("services are not built yet")
        if name in self._by_name:
            return self._by_name[name]
        if name in ("host", "remote-node"):
            return None
        if name in ("health", "kube-apiserver"):
            raise Unresolvable(f"this lab has no {name}")
        try:
            ip = str(ipaddress.ip_address(name))
        except ValueError:
            raise Unresolvable(f"{name} does not run") from None
        found = self._by_ip.get(ip)
        return replace(found, ips=(ip,)) if found else Place((ip,), None, None, None)

    def _entity(self, name: str, other: Place | None) -> Place | None:
        """`host` is the node of the other end; `remote-node` the first node that is not."""
        if other is None:
            return None
        if name == "host":
            if other.node is None:
                raise Unresolvable("host: the other end is on no node")
            return self._by_name[node_key(other.node)]
        for node in self._lab.nodes:
            if node.name != other.node:
                return self._by_name[node_key(node.name)]
        raise Unresolvable("remote-node: there is only one node")


def node_key(node: str) -> str:
    return f"node:{node}"
