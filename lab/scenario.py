"""`kind: Scenario` files: a cluster, its pods, and steps of manifests with the verdicts that must come of them.

Reading is strict and needs nothing of the machine; what a manifest means is the control plane's affair, so a bad one is
not a bad scenario: it is reported as refused.
"""

import ipaddress
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kilim.lab.errors import BadInput
from kilim.lab.fields import Fields
from kilim.lab.topology import IP_FAMILIES, External, NodePlan, Pod, Port, default_node_plans, families_of
from kilim.lab.yaml_documents import BadYaml, load_documents
from kilim.model.protocols import PROTOCOLS

ENTITIES = ("host", "remote-node", "health", "kube-apiserver")
VERDICTS = ("allow", "deny", "error")
SCENARIO_POOL = ipaddress.IPv4Network("10.61.0.0/16")
AUDIT_OPTION = "PolicyAuditMode"  # of an endpoint: Enabled, Disabled
_DEFAULT_NODES = 2
_ICMP_ECHO = 8
PROBED = (*PROTOCOLS, "ICMP")  # protocols; ICMP is that of the family


@dataclass(frozen=True, slots=True)
class Probe:
    source: str
    target: str
    port: int
    protocol: str
    expect: str | None
    written: dict[str, Any]  # as in the file, for the output
    family: str = ""  # that it is made over; empty: each that both ends have


@dataclass(frozen=True, slots=True)
class Manifest:
    index: str  # of the entry in the step: "0", or "delete[0]"
    source: str
    body: dict[str, Any] | None
    error: str = ""  # why there is no body


@dataclass(frozen=True, slots=True)
class Namespace:
    name: str
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class Setting:
    """`endpoint` (namespace/name): PolicyAuditMode of that pod; else a setting, of the cluster or of `node`."""

    index: str
    name: str
    value: str
    node: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class Step:
    apply: tuple[Manifest, ...]
    delete: tuple[Manifest, ...]
    settings: tuple[Setting, ...]
    probes: tuple[Probe, ...]


@dataclass(frozen=True, slots=True)
class Scenario:
    nodes: tuple[NodePlan, ...]
    namespaces: tuple[Namespace, ...]
    pods: tuple[Pod, ...]
    externals: tuple[External, ...]
    services: tuple[Manifest, ...]
    steps: tuple[Step, ...]


def load_scenario(path: Path) -> Scenario:
    try:
        text = path.read_text(encoding="utf-8")
        documents = [json.loads(text)] if path.suffix == ".json" else list(load_documents(text))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 at byte {error.start}") from None
    except BadYaml as error:
        raise BadInput(f"{path}: not YAML: {error}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON: {error}") from None
    if len(documents) != 1:
        raise BadInput(f"{path}: must hold one document, holds {len(documents)}")
    return parse_scenario(documents[0], str(path))


def parse_scenario(value: Any, file: str) -> Scenario:
    fields = Fields(value, file, "")
    fields.choice("kind", ("Scenario",))
    nodes = _nodes(fields, _families(fields))
    namespaces = fields.mappings("namespaces", lambda f: Namespace(f.label_name("name"), f.labels("labels")))
    pods = _placed(fields.mappings("pods", _pod), nodes, fields)
    undeclared = dict.fromkeys(pod.namespace for pod in pods if pod.namespace not in {n.name for n in namespaces})
    namespaces += tuple(Namespace(name, {}) for name in undeclared)
    externals = fields.mappings("externals", _external)
    services = _manifests(fields, "services", "services[{}]", file)
    steps = fields.mappings("steps", lambda f: _step(f, file))
    fields.finish()
    scenario = Scenario(nodes, namespaces, pods, externals, services, steps)
    _check_unique(scenario, fields)
    _check_references(scenario, fields)
    return _without_host_pods(scenario)


def _without_host_pods(scenario: Scenario) -> Scenario:
    """A hostNetwork pod is no endpoint; who talks to it talks to its node."""
    nodes = {pod.key: f"node:{pod.node}" for pod in scenario.pods if pod.host_network}
    if not nodes:
        return scenario

    def of_node(probe: Probe) -> Probe:
        return replace(
            probe, source=nodes.get(probe.source, probe.source), target=nodes.get(probe.target, probe.target)
        )

    steps = tuple(replace(step, probes=tuple(map(of_node, step.probes))) for step in scenario.steps)
    return replace(scenario, pods=tuple(pod for pod in scenario.pods if not pod.host_network), steps=steps)


def _families(fields: Fields) -> tuple[str, ...]:
    wanted = fields.texts("ipFamilies", str, "IPv4 or IPv6") or IP_FAMILIES
    for number, family in enumerate(wanted):
        if family not in IP_FAMILIES or family in wanted[:number]:
            raise fields.error(f"ipFamilies[{number}]", f"must be IPv4 or IPv6, each once, not {family!r}")
    return tuple(family for family in IP_FAMILIES if family in wanted)


def _nodes(fields: Fields, families: tuple[str, ...]) -> tuple[NodePlan, ...]:
    """Where a node has no podCIDRs it gets some of the families."""
    value = fields.take("nodes", _DEFAULT_NODES)
    if isinstance(value, int) and not isinstance(value, bool):
        fields.number("nodes", 1, 100, _DEFAULT_NODES)
        return default_node_plans(value, SCENARIO_POOL, families)
    default = default_node_plans(max(1, min(100, len(fields.items("nodes")))), SCENARIO_POOL, families)
    plans = fields.mappings("nodes", _node)
    if not plans:
        raise fields.error("nodes", "must be a number or a list with at least one node")
    return tuple(p if p.pod_cidrs else replace(p, pod_cidrs=d.pod_cidrs) for p, d in zip(plans, default, strict=True))


def _node(fields: Fields) -> NodePlan:
    cidrs = fields.texts("podCIDRs", lambda text: str(ipaddress.ip_network(text)), "a CIDR")
    return NodePlan(fields.dns_name("name"), cidrs, fields.labels("labels"))


def _port(fields: Fields) -> Port:
    return Port(
        fields.number("port", 1, 65535),
        fields.choice("protocol", tuple(PROTOCOLS), "TCP"),
        fields.label_name("name", ""),
    )


def _pod(fields: Fields) -> Pod:
    return Pod(
        namespace=fields.label_name("namespace"),
        name=fields.dns_name("name"),
        labels=fields.labels("labels"),
        ports=fields.mappings("ports", _port),
        node=fields.text("node", None),
        **_ips(fields),
        service_account=fields.dns_name("serviceAccount", "default"),
        host_network=fields.flag("hostNetwork"),
    )


def _external(fields: Fields) -> External:
    dns = fields.texts("dns", lambda text: str.lower(text), "a DNS name")
    ips = _ips(fields)
    if not ips["ip"]:
        raise fields.error("ip", "must be given")
    return External(fields.label_name("name"), ips["ip"], dns, fields.mappings("ports", _port), ipv6=ips["ipv6"] or "")


def _ips(fields: Fields) -> dict[str, str | None]:
    """`ip: A`, or `ips: [A, B]` of two families."""
    one = fields.ip("ip", None)
    several = fields.texts("ips", lambda text: str(ipaddress.ip_address(text)), "an IP address")
    if one and several:
        raise fields.error("ips", "goes without ip")
    ips = sorted(several or ((one,) if one else ()), key=lambda ip: ":" in ip)
    if len(families_of(ips)) < len(ips):
        raise fields.error("ips", "at most one of each family")
    return {"ip": ips[0] if ips else None, "ipv6": ips[1] if len(ips) > 1 else None}


def _placed(pods: tuple[Pod, ...], nodes: tuple[NodePlan, ...], fields: Fields) -> tuple[Pod, ...]:
    """Pods on nodes: as written, else where the pod's address belongs, else in turn."""
    placed = []
    for index, pod in enumerate(pods):
        if pod.host_network and pod.ip:
            raise fields.error(f"pods[{index}].ip", "must not be given: a hostNetwork pod has its node's address")
        homes = {next((n.name for n in nodes if _covers(n, ip)), ip) for ip in pod.ips}
        if len(homes) > 1:
            raise fields.error(f"pods[{index}].ips", f"{' and '.join(pod.ips)} are in podCIDRs of different nodes")
        home = next((n for n in nodes if pod.ip and _covers(n, pod.ip)), None)
        if pod.ip and home is None:
            raise fields.error(f"pods[{index}].ip", f"{pod.ip} is in no node's podCIDRs")
        if pod.node is not None and pod.node not in {node.name for node in nodes}:
            raise fields.error(f"pods[{index}].node", f"no node {pod.node!r} in nodes")
        if pod.node is not None and home is not None and home.name != pod.node:
            raise fields.error(f"pods[{index}].ip", f"{pod.ip} belongs to {home.name}, not to {pod.node}")
        node = pod.node or (home or nodes[index % len(nodes)]).name
        placed.append(replace(pod, node=node))
    return tuple(placed)


def _covers(node: NodePlan, ip: str) -> bool:
    return any(ipaddress.ip_address(ip) in ipaddress.ip_network(cidr) for cidr in node.pod_cidrs)


def _step(fields: Fields, file: str) -> Step:
    apply = _manifests(fields, "apply", "{}", file)
    delete = _manifests(fields, "delete", "delete[{}]", file)
    settings = fields.mappings("settings", _setting)
    settings = tuple(replace(each, index=f"settings[{number}]") for number, each in enumerate(settings))
    return Step(apply, delete, settings, fields.mappings("probes", _probe))


def _setting(fields: Fields) -> Setting:
    endpoint, node = fields.text("endpoint", "") or "", fields.text("node", "") or ""
    value = fields.text("value", "") or ""
    if endpoint:
        return Setting("", fields.choice("name", (AUDIT_OPTION,)), value, node, endpoint)
    return Setting("", fields.text("name"), value, node, "")


def _manifests(fields: Fields, field: str, index_form: str, file: str) -> tuple[Manifest, ...]:
    results: list[Manifest] = []
    for number, entry in enumerate(fields.items(field)):
        index, source = index_form.format(number), str(fields.error(f"{field}[{number}]", ""))[:-2]
        results.extend(_entry_manifests(entry, index, source))
    return tuple(results)


def _entry_manifests(entry: Any, index: str, source: str) -> Iterable[Manifest]:
    documents = [entry]
    if isinstance(entry, str):
        try:
            documents = [document for document in load_documents(entry) if document is not None]
        except BadYaml as error:
            return [Manifest(index, source, None, f"not YAML: {error}")]
    if not documents or not all(isinstance(document, dict) for document in documents):
        return [Manifest(index, source, None, "must be an object (a mapping with apiVersion and kind)")]
    return [Manifest(index, source, document) for document in documents]


def _probe(fields: Fields) -> Probe:
    protocol = fields.choice("protocol", PROBED, "TCP")
    port = fields.number("port", 0, 255, _ICMP_ECHO) if protocol == "ICMP" else fields.number("port", 1, 65535)
    source, target = fields.text("from"), fields.text("to")
    expect = fields.choice("expect", VERDICTS, None)
    family = fields.choice("ipFamily", IP_FAMILIES, None)
    written = {"from": source, "to": target, "port": port, "protocol": protocol, "ipFamily": family, "expect": expect}
    return Probe(
        source, target, port, protocol, expect, {k: v for k, v in written.items() if v is not None}, family or ""
    )


def _check_unique(scenario: Scenario, fields: Fields) -> None:
    groups = {
        "nodes": [node.name for node in scenario.nodes],
        "namespaces": [namespace.name for namespace in scenario.namespaces],
        "pods": [pod.key for pod in scenario.pods],
        "externals": [external.name for external in scenario.externals],
        "addresses": [ip for pod in scenario.pods for ip in pod.ips] + [ip for e in scenario.externals for ip in e.ips],
    }
    for field, names in groups.items():
        for name, count in Counter(names).items():
            if count > 1:
                raise fields.error(field, f"{name} is there {count} times")


def _check_references(scenario: Scenario, fields: Fields) -> None:
    known = {pod.key for pod in scenario.pods} | _applied_pods(scenario)
    known |= {f"ext:{external.name}" for external in scenario.externals}
    known |= {f"node:{node.name}" for node in scenario.nodes} | set(ENTITIES)
    for number, step in enumerate(scenario.steps):
        for index, probe in enumerate(step.probes):
            for field, end in (("from", probe.source), ("to", probe.target)):
                if end in known or end.startswith("svc:") or (field == "to" and _is_ip(end)):
                    continue
                rule = f"{end!r} is no pod (namespace/name), ext:NAME, node:NAME or entity of this scenario"
                raise fields.error(f"steps[{number}].probes[{index}].{field}", rule)


def _applied_pods(scenario: Scenario) -> set[str]:
    found = set()
    for step in scenario.steps:
        for manifest in step.apply:
            metadata = manifest.body.get("metadata") if manifest.body else None
            if manifest.body and manifest.body.get("kind") == "Pod" and isinstance(metadata, dict):
                found.add(f"{metadata.get('namespace', 'default')}/{metadata.get('name')}")
    return found


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
