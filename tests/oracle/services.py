"""Services in Cilium's policies, from the words of its documentation ("Services based", "Entities based") and of the
reference of Service and EndpointSlice. They are among the cluster's manifests.

"toServices": services "defined by their name and namespace or label selector". Of one with a selector it is the pods
with these labels, of one without "all endpoints", by address: as with CIDRs, "only what is outside of the cluster".
"""

from typing import Any

from tests.oracle.ends import Cluster, End, is_outside
from tests.oracle.selectors import selects

SERVICE_NAME = "kubernetes.io/service-name"


def is_behind(reference: dict[str, Any], cluster: Cluster, peer: End) -> bool:
    for service in cluster["policies"]:
        if service["kind"] != "Service" or not is_meant(reference, service):
            continue
        selector, namespace = service["spec"].get("selector") or {}, namespace_of(service)
        if selector:
            pod = peer["pod"]
            if pod is not None and pod["ns"] == namespace and selects({"matchLabels": selector}, pod["labels"]):
                return True
        elif is_outside(peer) and peer["ip"] in addresses(cluster, namespace, service["metadata"]["name"]):
            return True
    return False


def is_meant(reference: dict[str, Any], service: dict[str, Any]) -> bool:
    """Where no namespace is named it may be any."""
    metadata = service["metadata"]
    named, labelled = reference.get("k8sService"), reference.get("k8sServiceSelector")
    asked = (named or labelled or {}).get("namespace") or namespace_of(service)
    if asked != namespace_of(service):
        return False
    if named is not None:
        return bool(named["serviceName"] == metadata["name"])
    return labelled is not None and selects(labelled["selector"], metadata.get("labels") or {})


def is_api_server(cluster: Cluster, subject: End, peer: End) -> bool:
    """ "This entity represents both deployments of the kube-apiserver: within the cluster and outside of the cluster."
    It is known by the endpoints of the service `kubernetes`; that on the pod's own node is the entity `host`.
    """
    own_node = peer["node"] is not None and peer["node"] == subject["node"]
    ips = {peer["ip"]} if is_outside(peer) else set(peer["ips"])
    return peer["pod"] is None and not own_node and bool(ips & addresses(cluster, "default", "kubernetes"))


def addresses(cluster: Cluster, namespace: str, service: str) -> set[str]:
    """ "ready: … A nil value should be interpreted as true"; "serving" holds for one that terminates, too."""
    found = set()
    for part in cluster["policies"]:
        labels = part["metadata"].get("labels") or {}
        if part["kind"] != "EndpointSlice" or namespace_of(part) != namespace or labels.get(SERVICE_NAME) != service:
            continue
        for endpoint in part["endpoints"]:
            conditions = endpoint.get("conditions") or {}
            if conditions.get("ready", True) or conditions.get("serving"):
                found.update(endpoint["addresses"])
    return found


def namespace_of(manifest: dict[str, Any]) -> str:
    return manifest["metadata"].get("namespace") or "default"
