"""From the names of a probe (`ns/pod`, `ext:NAME`, `node:NAME`, an entity, an IP) to sockets and addresses of a lab."""

from dataclasses import dataclass
from pathlib import Path

from kilim.lab.exchange import Target
from kilim.lab.names import external_role
from kilim.lab.pods import RunningPod, by_key
from kilim.lab.scenario import Probe
from kilim.lab.topology import Lab


class Unresolvable(Exception):
    """Why a probe cannot be made here; it becomes the message of an `error` verdict."""


@dataclass(frozen=True, slots=True)
class Place:
    """One end of a probe. `answerer` is the name that what listens there gives; None where nobody knows."""

    ip: str
    netns: Path | None
    answerer: str | None
    node: str | None


class Places:
    def __init__(self, lab: Lab, pods: list[RunningPod]) -> None:
        self._lab = lab
        self._by_name: dict[str, Place] = {}
        for key, pod in by_key(pods).items():
            self._by_name[key] = Place(pod.ip, Path(pod.netns), key, pod.node)
        for external in lab.externals:
            name = f"ext:{external.name}"
            self._by_name[name] = Place(external.ip, lab.netns(external_role(external.name)), name, None)
        for node in lab.nodes:
            name = node_key(node.name)
            self._by_name[name] = Place(node.ip, lab.netns(node.name), name, node.name)
        self._by_ip = {place.ip: place for place in self._by_name.values()}

    def ends(self, probe: Probe) -> tuple[Place, Place]:
        source, target = self._find(probe.source), self._find(probe.target)
        source = source or self._entity(probe.source, target)
        target = target or self._entity(probe.target, source)
        if source is None or target is None:
            raise Unresolvable("both ends are entities")
        return source, target

    def target(self, probe: Probe) -> Target:
        source, target = self.ends(probe)
        if source.netns is None:
            raise Unresolvable(f"{probe.source} is no place to send from")
        return Target(source.netns, target.ip, probe.port, probe.protocol, target.answerer)

    def _find(self, name: str) -> Place | None:
        if name.startswith("svc:"):
            raise Unresolvable("services are not built yet")
        if name in self._by_name:
            return self._by_name[name]
        if name in ("host", "remote-node"):
            return None
        if name in ("health", "kube-apiserver"):
            raise Unresolvable(f"this lab has no {name}")
        if "/" in name or ":" in name:
            raise Unresolvable(f"{name} does not run")
        return self._by_ip.get(name) or Place(name, None, None, None)

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
