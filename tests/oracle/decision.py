"""One probe through all policies: allow or deny.

"For a connection from a source pod to a destination pod to be allowed, both the egress policy on the source pod and the
ingress policy on the destination pod need to allow the connection." "A pod cannot block access to itself".
"""

from tests.oracle import cilium_policy, network_policy
from tests.oracle.cluster_network_policy import tier_says
from tests.oracle.ends import Cluster, End, Probe, end_of, is_node


def decide(cluster: Cluster, probe: Probe) -> str:
    source, target = (end_of(cluster, probe[end], probe.get("family", "")) for end in ("from", "to"))
    if source["ip"] == target["ip"]:
        return "allow"
    sent = source["pod"] is None or side_allows(cluster, "egress", source, target, target, probe)
    received = target["pod"] is None or side_allows(cluster, "ingress", target, source, target, probe)
    return "allow" if sent and received else "deny"


def side_allows(cluster: Cluster, direction: str, subject: End, peer: End, receiver: End, probe: Probe) -> bool:
    """Admin, then NetworkPolicy and Cilium's policies, then Baseline; "all pods can communicate" where none speaks."""
    if is_node(peer) and peer["node"] == subject["node"]:
        return own_node_allowed(cluster, direction, subject, peer, receiver, probe)
    pod = subject["pod"]
    said = tier_says("Admin", cluster, direction, pod, peer, receiver, probe)
    if said in ("Accept", "Deny"):
        return said == "Accept"
    allowed = namespaced_says(cluster, direction, subject, peer, receiver, probe)
    if allowed is not None:
        return allowed
    return tier_says("Baseline", cluster, direction, pod, peer, receiver, probe) != "Deny"


def own_node_allowed(cluster: Cluster, direction: str, subject: End, peer: End, receiver: End, probe: Probe) -> bool:
    """Kubernetes: "traffic to and from the node where a Pod is running is always allowed". Of Cilium's policies denies
    take precedence here too, and what is automatic is "all communication from the local host" alone: to it, a pod whose
    egress they alone restrict needs a rule.
    """
    by_kubernetes = any(
        policy["kind"] == "NetworkPolicy" and network_policy.isolates(policy, subject["pod"], direction)
        for policy in cluster["policies"]
    )
    by_cilium = allowed = False
    for policy in cluster["policies"]:
        for rule in cilium_policy.rules_of(policy):
            if not cilium_policy.is_subject(rule, policy, cluster, subject["pod"]):
                continue
            ends = (subject, peer, receiver, probe)
            if cilium_policy.matches(rule, policy, cluster, direction, "Deny", *ends):
                return False
            by_cilium = by_cilium or cilium_policy.isolates(rule, direction)
            allowed = allowed or cilium_policy.matches(rule, policy, cluster, direction, "", *ends)
    return allowed or by_kubernetes or direction == "ingress" or not by_cilium


def namespaced_says(
    cluster: Cluster, direction: str, subject: End, peer: End, receiver: End, probe: Probe
) -> bool | None:
    """None where no policy isolates the pod in this direction and none denies.

    "Deny policies take precedence over allow policies, regardless of whether they are a Cilium Network Policy, a
    Clusterwide Cilium Network Policy or even a Kubernetes Network Policy."
    """
    isolated = allowed = False
    for policy in cluster["policies"]:
        if policy["kind"] == "NetworkPolicy" and network_policy.isolates(policy, subject["pod"], direction):
            isolated = True
            allowed = allowed or network_policy.allows(policy, cluster, direction, peer, receiver, probe)
        for rule in cilium_policy.rules_of(policy):
            if not cilium_policy.is_subject(rule, policy, cluster, subject["pod"]):
                continue
            isolated = isolated or cilium_policy.isolates(rule, direction)
            if cilium_policy.matches(rule, policy, cluster, direction, "Deny", subject, peer, receiver, probe):
                return False
            allowed = allowed or cilium_policy.matches(
                rule, policy, cluster, direction, "", subject, peer, receiver, probe
            )
    return allowed if isolated or allowed else None
