"""networking.k8s.io/v1 NetworkPolicy, sentence by sentence of its API reference (quoted beside what they became)."""

from typing import Any

from tests.oracle.ends import Cluster, End, Pod, Probe, in_cidr
from tests.oracle.selectors import selects

Policy = dict[str, Any]


def isolates(policy: Policy, pod: Pod, direction: str) -> bool:
    """Whether it selects the pod and applies to the direction."""
    namespace = policy["metadata"].get("namespace") or "default"
    spec = policy.get("spec") or {}
    # "an empty podSelector selects all pods in this namespace"
    return pod["ns"] == namespace and selects(spec.get("podSelector"), pod["labels"]) and direction in types_of(spec)


def types_of(spec: dict[str, Any]) -> list[str]:
    # "If this field is not specified, it will default based on the existence of ingress or egress rules; policies that
    # contain an egress section are assumed to affect egress, and all policies (whether or not they contain an ingress
    # section) are assumed to affect ingress."
    types = [name.lower() for name in spec.get("policyTypes") or []]
    if types:
        return types
    return ["ingress", "egress"] if spec.get("egress") else ["ingress"]


def allows(policy: Policy, cluster: Cluster, direction: str, peer: End, receiver: End, probe: Probe) -> bool:
    """Of a policy that isolates the pod: whether one of its rules matches the traffic on both peers and ports."""
    namespace = policy["metadata"].get("namespace") or "default"
    # "If this field is empty then this NetworkPolicy does not allow any traffic"
    for rule in policy["spec"].get(direction) or []:
        rule = rule or {}
        peers = rule.get("from" if direction == "ingress" else "to")
        ports = rule.get("ports")
        # "If this field is empty or missing, this rule matches all sources"; the same of destinations and ports.
        # "Multiple items in this list are combined using a logical OR."
        from_peer = not peers or any(is_peer(each or {}, cluster, namespace, peer) for each in peers)
        on_port = not ports or any(is_port(each or {}, receiver, probe) for each in ports)
        if from_peer and on_port:
            return True
    return False


def is_peer(peer: dict[str, Any], cluster: Cluster, namespace: str, end: End) -> bool:
    if peer.get("ipBlock") is not None:
        block = peer["ipBlock"]
        # "IPBlock describes a particular CIDR that is allowed to the pods matched by a NetworkPolicySpec's podSelector.
        # The except entry describes CIDRs that should not be included within this rule." Pods have addresses too.
        return in_cidr(end, block["cidr"]) and not any(in_cidr(end, each) for each in block.get("except") or [])
    pod = end["pod"]
    if pod is None:
        return False
    if peer.get("namespaceSelector") is None:
        # "Otherwise it selects the pods matching podSelector in the policy's own namespace."
        in_namespace = pod["ns"] == namespace
    else:
        in_namespace = selects(peer["namespaceSelector"], namespace_labels(cluster, pod["ns"]))
    return in_namespace and selects(peer.get("podSelector"), pod["labels"])


def namespace_labels(cluster: Cluster, name: str) -> dict[str, str]:
    # "The Kubernetes control plane sets an immutable label kubernetes.io/metadata.name on all namespaces"
    return {**cluster["namespaces"].get(name, {}), "kubernetes.io/metadata.name": name}


def is_port(port: dict[str, Any], receiver: End, probe: Probe) -> bool:
    # "If not specified, this field defaults to TCP."
    if (port.get("protocol") or "TCP") != probe["proto"]:
        return False
    number = port.get("port")
    if number is None:  # "If this field is not provided, this matches all port names and numbers."
        return True
    if isinstance(number, str):
        return has_named_port(receiver, number, probe)
    # "endPort indicates that the range of ports from port to endPort if set, inclusive, should be allowed"
    return bool(number <= probe["port"] <= (port.get("endPort") or number))


def has_named_port(receiver: End, name: str, probe: Probe) -> bool:
    """ "This can either be a numerical or named port on a pod." A name says nothing of what is not a pod."""
    ports = [] if receiver["pod"] is None else receiver["pod"]["ports"]
    return any(
        each.get("name") == name and (each["port"], each["proto"]) == (probe["port"], probe["proto"]) for each in ports
    )
