"""Expectations for scenario files (`kilim lab run`): every probe of every step gets what the oracle says.

A probe that policy allows and that nobody serves is an `error`; nodes serve whatever is asked of them.
"""

from typing import Any

from tests.oracle.decision import decide
from tests.oracle.ends import Cluster, Probe, end_of

Document = dict[str, Any]
Manifest = dict[str, Any]

NODE_IPS = ("192.168.60.{}", "fd00:60::{:x}")  # nodes of a scenario are numbered from 101 on, in their order


def with_expectations(document: Document) -> Document:
    """A copy in which every probe has its `expect`. Manifests must be objects and nodes a list."""
    cluster = cluster_of(document)
    steps = []
    for step in document["steps"]:
        for manifest in step.get("apply", []):
            put(cluster, manifest)
        for manifest in step.get("delete", []):
            remove(cluster, manifest)
        probes = [{**probe, "expect": expected(cluster, probe)} for probe in step["probes"]]
        steps.append({**step, "probes": probes})
    return {**document, "steps": steps}


def cluster_of(document: Document) -> Cluster:
    """As the scenario's cluster is before its first step."""
    families = document.get("ipFamilies", ["IPv4", "IPv6"])
    nodes = {
        node["name"]: {
            "ips": [ip.format(101 + i) for ip in NODE_IPS if ("IPv6" if ":" in ip else "IPv4") in families],
            "labels": node_labels(node),
        }
        for i, node in enumerate(document["nodes"])
    }
    return {
        "namespaces": {each["name"]: each.get("labels", {}) for each in document["namespaces"]},
        "nodes": nodes,
        "externals": document.get("externals", []),
        "pods": [
            {
                "ns": pod["namespace"],
                "name": pod["name"],
                "ips": pod.get("ips") or [pod["ip"]],
                "node": pod["node"],
                "labels": pod.get("labels", {}),
                "serviceaccount": pod.get("serviceAccount", "default"),
                "ports": [ports_of(port, "port") for port in pod["ports"]],
            }
            for pod in document["pods"]
        ],
        "policies": [],
    }


def node_labels(node: dict[str, Any]) -> dict[str, str]:
    """With those that the kubelet sets on every node."""
    return {"kubernetes.io/os": "linux", "kubernetes.io/hostname": node["name"], **node.get("labels", {})}


def ports_of(port: dict[str, Any], number: str) -> dict[str, Any]:
    return {"name": port.get("name", ""), "port": port[number], "proto": port.get("protocol", "TCP")}


def put(cluster: Cluster, manifest: Manifest) -> None:
    """Apply: a namespace or pod gets what the object says of it, a policy takes the place of its former self."""
    metadata = manifest["metadata"]
    if manifest["kind"] == "Namespace":
        cluster["namespaces"] = {**cluster["namespaces"], metadata["name"]: metadata.get("labels") or {}}
    elif manifest["kind"] == "Pod":
        (container,) = manifest["spec"]["containers"]
        new = {
            "labels": metadata.get("labels") or {},
            "serviceaccount": manifest["spec"].get("serviceAccountName", "default"),
            "ports": [ports_of(port, "containerPort") for port in container["ports"]],
        }
        name = (metadata["namespace"], metadata["name"])
        if not any((pod["ns"], pod["name"]) == name for pod in cluster["pods"]):
            where = {"node": manifest["spec"]["nodeName"], "ips": [manifest["status"]["podIP"]]}
            cluster["pods"] = [*cluster["pods"], {"ns": name[0], "name": name[1], **where}]
        cluster["pods"] = [{**pod, **new} if (pod["ns"], pod["name"]) == name else pod for pod in cluster["pods"]]
    else:
        remove(cluster, manifest)
        cluster["policies"] = [*cluster["policies"], manifest]


def remove(cluster: Cluster, manifest: Manifest) -> None:
    metadata = manifest["metadata"]
    if manifest["kind"] == "Pod":
        name = (metadata["namespace"], metadata["name"])
        cluster["pods"] = [pod for pod in cluster["pods"] if (pod["ns"], pod["name"]) != name]
    else:
        cluster["policies"] = [each for each in cluster["policies"] if _identity(each) != _identity(manifest)]


def _identity(manifest: Manifest) -> tuple[str, str, str]:
    return manifest["kind"], manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]


def expected(cluster: Cluster, probe: dict[str, Any]) -> str:
    ends = {"from": probe["from"], "to": probe["to"], "family": probe.get("ipFamily", "")}
    asked: Probe = {**ends, "port": probe["port"], "proto": probe["protocol"]}
    if decide(cluster, asked) == "deny":
        return "deny"
    return "allow" if is_served(cluster, asked) else "error"


def is_served(cluster: Cluster, probe: Probe) -> bool:
    if probe["proto"] == "ICMP":
        return True
    for external in cluster["externals"]:
        if probe["to"] == f"ext:{external['name']}":
            ports = [ports_of(port, "port") for port in external["ports"]]
            break
    else:
        pod = end_of(cluster, probe["to"])["pod"]
        if pod is None:
            return True
        ports = pod["ports"]
    return any((port["port"], port["proto"]) == (probe["port"], probe["proto"]) for port in ports)
