"""A scenario on the desired tables alone: the control plane's own decisions and fold, no kernel, root or process.

Easy to get wrong: what a packet would meet beyond policy is answered here too, for the documents must agree with those
of real packets: a port that nobody serves is an `error`.
"""

import ipaddress
from collections.abc import Sequence
from itertools import count

from kilim.controlplane.decide.batch import decide_batch
from kilim.controlplane.decide.command import (
    ApplyObjects,
    ChangeSetting,
    Command,
    ConfigureEndpoint,
    DeleteObjects,
    Document,
    Ref,
    RegisterEndpoint,
    RegisterNode,
    RemoveEndpoint,
)
from kilim.controlplane.decide.decided import Decided
from kilim.controlplane.decide.view import Defaults, View
from kilim.lab.errors import BadInput
from kilim.lab.manifests import namespace_manifest, pod_from_manifest, pod_manifest
from kilim.lab.pods import RunningPod
from kilim.lab.probe import Verdict, of_families
from kilim.lab.resolve import Place, Places, Unresolvable, Way, in_family
from kilim.lab.scenario import Manifest, Probe, Scenario, Setting
from kilim.lab.stage import Refusal, is_enabled, object_ref
from kilim.lab.topology import Lab, Pod, families_of, planned_nodes
from kilim.model.address import parse_ip
from kilim.model.desired import desired_tables
from kilim.model.invalid import Invalid
from kilim.model.resource import namespace_of, parse_manifest
from kilim.model.state import State
from kilim.model.tables import Tables
from kilim.model.verdict import verdict

_FIRST_HOST = 2  # of a node's CIDR, for pods whose address is left to us


class ModelStage:
    def __init__(self) -> None:
        self._tables: dict[str, Tables] = {}
        self._begin(Lab("model", "", (), (), ()))

    async def set_up(self, scenario: Scenario) -> None:
        self._begin(Lab("model", "", planned_nodes(scenario.nodes), (), (), scenario.externals))
        objects = [(f"namespace {n.name}", namespace_manifest(n.name, n.labels)) for n in scenario.namespaces]
        objects += [(f"pod {pod.key}", pod_manifest(pod)) for pod in scenario.pods]
        try:
            for node in self._lab.nodes:
                labels = tuple(sorted(node.labels.items()))
                ip, ipv6 = _by_family(node.ips)
                self._do(RegisterNode(node.name, ip, node.pod_cidrs, labels, ipv6))
            self._do(ApplyObjects(tuple(_document(source, body) for source, body in objects)))
            for pod in scenario.pods:
                self._start(pod)
        except Refusal as refusal:
            raise BadInput(str(refusal)) from None
        await self.settle()

    async def apply(self, manifest: Manifest) -> None:
        assert manifest.body is not None
        self._do(ApplyObjects((_document(manifest.source, manifest.body),)))
        pod = pod_from_manifest(manifest.body) if manifest.body.get("kind") == "Pod" else None
        if pod is not None and pod.key not in self._pods:
            self._start(pod)

    async def delete(self, manifest: Manifest) -> None:
        kind, namespace, name = object_ref(manifest)
        namespace = namespace_of(kind, namespace)
        self._do(DeleteObjects((Ref(kind, namespace, name, manifest.source),)))
        for key, running in list(self._pods.items()):
            pod = running.pod
            if (kind, name) == ("Namespace", pod.namespace) or (kind, f"{namespace}/{name}") == ("Pod", key):
                if kind == "Namespace":
                    self._do(DeleteObjects((Ref("Pod", pod.namespace, pod.name),), ignore_not_found=True))
                self._do(RemoveEndpoint(running.node, pod.namespace, pod.name))
                del self._pods[key]

    async def set(self, setting: Setting) -> None:
        if setting.endpoint:
            namespace, _, name = setting.endpoint.rpartition("/")
            self._do(ConfigureEndpoint(namespace, name, is_enabled(setting)))
        else:
            self._do(ChangeSetting(setting.name, setting.value, setting.node))

    async def settle(self) -> None:
        self._tables = {node.name: desired_tables(self._view.state, node.name) for node in self._lab.nodes}

    async def ask(self, probes: Sequence[Probe]) -> list[Verdict]:
        places = Places(self._lab, list(self._pods.values()))
        return [self._answer(places, probe) for probe in probes]

    async def close(self) -> None:
        pass

    def _begin(self, lab: Lab) -> None:
        self._lab = lab
        self._view = View(State(), Defaults())
        self._tables = {}
        self._pods: dict[str, RunningPod] = {}

    def _do(self, command: Command) -> None:
        (outcome,) = decide_batch(self._view, [command])
        if not isinstance(outcome, Decided):
            raise Refusal(outcome.message)
        for event in outcome.events:
            self._view.fold(self._view.state.seq + 1, event.SerializeToString())

    def _start(self, pod: Pod) -> None:
        node = self._lab.node(pod.node or self._lab.nodes[0].name)
        families = families_of(pod.ips or node.pod_cidrs)
        asked = {families_of([ip])[0]: ip for ip in pod.ips}
        ips = tuple(asked.get(family) or self._free_ip(node.pod_cidrs, family) for family in families)
        taken = self._view.endpoints_on.get(node.name, {})
        number = next(number for number in count(1) if number not in taken)
        ip, ipv6 = _by_family(ips)
        self._do(RegisterEndpoint(node.name, pod.namespace, pod.name, pod.key, ip, number, ipv6=ipv6))
        self._pods[pod.key] = RunningPod(pod, node.name, "/nowhere", pod.key, ips)

    def _free_ip(self, pod_cidrs: tuple[str, ...], family: str) -> str:
        taken = {ip for running in self._pods.values() for ip in running.ips}
        for cidr in pod_cidrs:
            if families_of([cidr]) != (family,):
                continue
            network = ipaddress.ip_network(cidr)
            for number in range(_FIRST_HOST, network.num_addresses - 1):
                if (ip := str(network[number])) not in taken:
                    return ip
        raise BadInput(f"no free address in {', '.join(pod_cidrs)}")

    def _answer(self, places: Places, probe: Probe) -> Verdict:
        try:
            source, target = places.ends(probe)
            ways = places.ways(probe)
        except Unresolvable as reason:
            return Verdict("error", message=str(reason))
        return of_families({way.family: self._answer_over(way, source, target, probe) for way in ways})

    def _answer_over(self, way: Way, source: Place, target: Place, probe: Probe) -> Verdict:
        found = verdict(
            self._tables_of(source),
            self._tables_of(target),
            parse_ip(way.source),
            parse_ip(way.target),
            *in_family(probe, way.family),
        )
        if not found.allowed:
            return Verdict("deny", found.reason)
        if not self._serves(target, probe):
            return Verdict("error", message="Connection refused")
        return Verdict("allow")

    def _tables_of(self, place: Place) -> Tables | None:
        return self._tables[place.node] if place.node is not None else None

    def _serves(self, place: Place, probe: Probe) -> bool:
        """Nodes listen on whatever is asked of them; of an address that is nobody's we know nothing."""
        name = place.answerer or ""
        if probe.protocol == "ICMP" or not name or name.startswith("node:"):
            return True
        if name.startswith("ext:"):
            ports = next(e.ports for e in self._lab.externals if f"ext:{e.name}" == name)
        else:
            ports = self._pods[name].pod.ports
        return any((p.port, p.protocol) == (probe.port, probe.protocol) for p in ports)


def _by_family(ips: tuple[str, ...]) -> tuple[str, str]:
    """IPv4, IPv6; either may be empty."""
    return next((ip for ip in ips if ":" not in ip), ""), next((ip for ip in ips if ":" in ip), "")


def _document(source: str, body: dict[str, object]) -> Document:
    try:
        return Document(parse_manifest(body).noun, source)
    except Invalid as error:
        raise Refusal(f"{source}: {error}") from None
