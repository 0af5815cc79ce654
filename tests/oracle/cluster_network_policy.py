"""policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy, sentence by sentence of its API reference."""

from typing import Any

from tests.oracle.ends import Cluster, End, Pod, Probe, in_cidr, is_node
from tests.oracle.network_policy import has_named_port, namespace_labels
from tests.oracle.selectors import selects

Policy = dict[str, Any]


def tier_says(
    tier: str, cluster: Cluster, direction: str, subject: Pod, peer: End, receiver: End, probe: Probe
) -> str | None:
    """Accept, Deny or Pass, of the first rule of the tier that matches; None where none does.

    "Policies with lower priority values have higher precedence"; "the relative precedence of rules within a single
    object will be determined by the order in which the rule is written".
    """
    policies = [p for p in cluster["policies"] if p["kind"] == "ClusterNetworkPolicy" and p["spec"]["tier"] == tier]
    for policy in sorted(policies, key=lambda p: int(p["spec"]["priority"])):
        if not is_subject(policy["spec"]["subject"], cluster, subject):
            continue
        for rule in policy["spec"].get(direction) or []:
            peers = rule["from" if direction == "ingress" else "to"]
            protocols = rule.get("protocols")
            # "If any element matches the source of incoming traffic then the specified action is applied."
            if any(is_peer(each, cluster, peer) for each in peers) and (
                not protocols or any(is_protocol(each, receiver, probe) for each in protocols)
            ):
                return str(rule["action"])
    return None


def is_subject(subject: dict[str, Any], cluster: Cluster, pod: Pod) -> bool:
    # "Exactly one field must be set. Note that host-networked pods are not included in subject selection."
    if subject.get("namespaces") is not None:
        return selects(subject["namespaces"], namespace_labels(cluster, pod["ns"]))
    return is_namespaced_pod(subject["pods"], cluster, pod)


def is_namespaced_pod(selector: dict[str, Any], cluster: Cluster, pod: Pod) -> bool:
    return selects(selector.get("namespaceSelector"), namespace_labels(cluster, pod["ns"])) and selects(
        selector.get("podSelector"), pod["labels"]
    )


def is_peer(peer: dict[str, Any], cluster: Cluster, end: End) -> bool:
    if peer.get("networks") is not None:
        # "cluster-internal traffic will be checked against the rule as well"
        return any(in_cidr(end, cidr) for cidr in peer["networks"])
    if peer.get("nodes") is not None:
        return is_node(end) and selects(peer["nodes"], cluster["nodes"][end["node"]]["labels"])
    pod = end["pod"]
    if pod is None:
        return False
    if peer.get("namespaces") is not None:
        return selects(peer["namespaces"], namespace_labels(cluster, pod["ns"]))
    return is_namespaced_pod(peer["pods"], cluster, pod)


def is_protocol(protocol: dict[str, Any], receiver: End, probe: Probe) -> bool:
    if "destinationNamedPort" in protocol:
        return has_named_port(receiver, protocol["destinationNamedPort"], probe)
    ((name, match),) = protocol.items()
    if name.upper() != probe["proto"]:
        return False
    port = match["destinationPort"]
    if "range" in port:
        return bool(port["range"]["start"] <= probe["port"] <= port["range"]["end"])
    return bool(port["number"] == probe["port"])
