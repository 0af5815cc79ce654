"""cilium.io/v2 CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy, from Cilium's documentation (Layer 3, Layer 4,
Deny, Enforcement Modes, Using Kubernetes Constructs) and the words of its API reference."""

from typing import Any

from tests.oracle.cilium_ports import is_icmp, is_port
from tests.oracle.ends import Cluster, End, Pod, Probe, family_of, in_cidr, is_node, is_outside
from tests.oracle.network_policy import namespace_labels
from tests.oracle.selectors import selects
from tests.oracle.services import is_api_server, is_behind

Policy = dict[str, Any]
Rule = dict[str, Any]

KINDS = ("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy")
NAMESPACE = "io.kubernetes.pod.namespace"
NAMESPACE_LABELS = "io.cilium.k8s.namespace.labels."


def rules_of(policy: Policy) -> list[Rule]:
    if policy["kind"] not in KINDS:
        return []
    one = policy.get("spec")
    return ([one] if one is not None else []) + list(policy.get("specs") or [])


def namespace_of(policy: Policy) -> str | None:
    if policy["kind"] == "CiliumClusterwideNetworkPolicy":
        return None
    return policy["metadata"].get("namespace") or "default"


def is_subject(rule: Rule, policy: Policy, cluster: Cluster, pod: Pod) -> bool:
    """ "EndpointSelector always applies in namespace of the policy resource"; the label that sees to it is put among
    matchLabels, in the place of one that is written there."""
    namespace, selector = namespace_of(policy), rule["endpointSelector"] or {}
    if namespace is not None:
        selector = {**selector, "matchLabels": {**(selector.get("matchLabels") or {}), "k8s:" + NAMESPACE: namespace}}
    return selects(plain(selector), security_labels(cluster, pod)) and namespace in (None, pod["ns"])


def isolates(rule: Rule, direction: str) -> bool:
    # "If not specified, the default is true for each traffic direction that has rules, and false otherwise."
    asked = (rule.get("enableDefaultDeny") or {}).get(direction)
    return bool(rule.get(direction) or rule.get(f"{direction}Deny")) if asked is None else bool(asked)


def matches(
    rule: Rule, policy: Policy, cluster: Cluster, direction: str, deny: str,
    subject: End, peer: End, receiver: End, probe: Probe,
) -> bool:  # fmt: skip
    """Whether an entry of the section (`ingress`, `egressDeny`, …) matches. `deny` is "Deny" or nothing."""
    for entry in rule.get(direction + deny) or []:
        entry = entry or {}
        if is_peer(entry, policy, cluster, direction, subject, peer) and is_l4(entry, direction, receiver, probe):
            return True
    return False


def is_l4(entry: Rule, direction: str, receiver: End, probe: Probe) -> bool:
    # "If no layer 4 policy is specified for an endpoint, the endpoint is allowed to send and receive on all layer 4
    # ports and protocols including ICMP. If any layer 4 policy is specified, then ICMP will be blocked"; "If any ICMP
    # policy is specified, layer 4 and ICMP communication will be blocked"; so an entry that lists no port allows none
    if not entry.get("toPorts") and not entry.get("icmps"):
        return True
    ports = [port for each in entry.get("toPorts") or [] for port in (each or {}).get("ports") or []]
    types = [field for each in entry.get("icmps") or [] for field in each.get("fields") or []]
    return any(is_port(port, receiver, probe) for port in ports) or any(is_icmp(each, probe) for each in types)


def is_peer(entry: Rule, policy: Policy, cluster: Cluster, direction: str, subject: End, peer: End) -> bool:
    """ "An empty non-nil FromEndpoints does not select anything, nil FromEndpoints is implicitly treated as a wildcard
    selector if ToPorts are also specified." An entry that says nothing at all puts into default deny and allows none.
    """
    word = "from" if direction == "ingress" else "to"
    names = [word + what for what in ("Endpoints", "Entities", "CIDR", "CIDRSet", "Nodes", "Services")]
    if all(entry.get(name) is None for name in names[:-1]) and not entry.get("toServices"):
        return bool(entry.get("toPorts") or entry.get("icmps"))
    endpoints, entities, cidrs, cidr_sets, nodes, services = (entry.get(name) or [] for name in names)
    return (
        any(is_endpoint(each or {}, policy, cluster, subject, peer) for each in endpoints)
        or any(is_entity(each, cluster, subject, peer) for each in entities)
        or any(is_outside(peer) and in_cidr(peer, each) for each in cidrs)
        or any(is_in_set(each, cluster, peer) for each in cidr_sets)
        or any(is_selected_node(each or {}, cluster, subject, peer) for each in nodes)
        or any(is_behind(each, cluster, peer) for each in services)
    )


def is_selected_node(selector: dict[str, Any], cluster: Cluster, subject: End, peer: End) -> bool:
    """Nodes by their labels; they are remote nodes: the local one is the entity `host`."""
    if not is_node(peer) or peer["node"] == subject["node"]:
        return False
    return selects(plain(selector), cluster["nodes"][peer["node"]]["labels"])


def is_endpoint(selector: dict[str, Any], policy: Policy, cluster: Cluster, subject: End, peer: End) -> bool:
    """A policy of a namespace selects in its namespace unless the selector speaks of namespaces itself, or of labels
    of the source `reserved`, by which the host, other nodes and the world are known."""
    selector, pod, namespace = plain(selector), peer["pod"], namespace_of(policy)
    keys = [each["key"] for each in selector["matchExpressions"]]
    if any(key.startswith("reserved:") for key in keys):
        labels = reserved_labels(cluster, subject, peer) if pod is None else security_labels(cluster, pod)
        return selects(selector, labels)
    if pod is None:
        return False
    if namespace is not None and not any(key == NAMESPACE or key.startswith(NAMESPACE_LABELS) for key in keys):
        if pod["ns"] != namespace:
            return False
    return selects(selector, security_labels(cluster, pod))


def reserved_labels(cluster: Cluster, subject: End, peer: End) -> dict[str, str]:
    api_server = {"reserved:kube-apiserver": ""} if is_api_server(cluster, subject, peer) else {}
    if is_outside(peer):
        return {"reserved:world": "", **api_server}
    return {"reserved:host" if peer["node"] == subject["node"] else "reserved:remote-node": "", **api_server}


def is_entity(entity: str, cluster: Cluster, subject: End, peer: End) -> bool:
    match entity:
        case "all":
            return True
        case "world":  # "all endpoints outside of the cluster"
            return is_outside(peer)
        case "world-ipv4" | "world-ipv6":
            return is_outside(peer) and entity.endswith(family_of(peer["ip"]).lower())
        case "cluster":  # "all network endpoints inside of the local cluster", host and remote nodes among them
            # … and a "broader" entity than kube-apiserver, wherever that is
            return not is_outside(peer) or is_api_server(cluster, subject, peer)
        case "kube-apiserver":
            return is_api_server(cluster, subject, peer)
        case "host":
            return is_node(peer) and peer["node"] == subject["node"]
        case "remote-node":
            return is_node(peer) and peer["node"] != subject["node"]
    # health, init, ingress, unmanaged and none: there is nobody of them in these clusters
    return False


def is_in_set(cidr_set: dict[str, Any], cluster: Cluster, peer: End) -> bool:
    """ "By default, CIDR-based selectors do not match in-cluster entities (pods or nodes)."""
    if not is_outside(peer):
        return False
    cidrs = [cidr_set["cidr"]] if cidr_set.get("cidr") else []
    for group in cluster["policies"]:
        if group["kind"] == "CiliumCIDRGroup" and (
            cidr_set.get("cidrGroupRef") == group["metadata"]["name"]
            or (
                cidr_set.get("cidrGroupSelector") is not None
                and selects(cidr_set["cidrGroupSelector"], group["metadata"].get("labels") or {})
            )
        ):
            cidrs += group["spec"]["externalCIDRs"]
    inside = any(in_cidr(peer, each) for each in cidrs)
    return inside and not any(in_cidr(peer, each) for each in cidr_set.get("except") or [])


def security_labels(cluster: Cluster, pod: Pod) -> dict[str, str]:
    of_namespace = namespace_labels(cluster, pod["ns"])
    return {
        **pod["labels"],
        **{NAMESPACE_LABELS + key: value for key, value in of_namespace.items()},
        NAMESPACE: pod["ns"],
        "io.cilium.k8s.policy.serviceaccount": pod.get("serviceaccount") or "default",
        "io.cilium.k8s.policy.cluster": "default",
    }


def plain(selector: dict[str, Any]) -> dict[str, Any]:
    """Keys without the source in front: all labels of pods are of the source k8s, those of nodes of node, any: is any
    source."""
    labels = selector.get("matchLabels") or {}
    expressions = [{"key": key, "operator": "In", "values": [value]} for key, value in labels.items()]
    expressions += selector.get("matchExpressions") or []
    return {"matchExpressions": [{**each, "key": without_source(each["key"])} for each in expressions]}


def without_source(key: str) -> str:
    return key.removeprefix("k8s:").removeprefix("any:").removeprefix("node:")
