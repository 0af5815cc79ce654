"""Labels as Cilium writes them: `source:key=value` strings, sorted, for identities; (key, value) pairs for objects.

A visitor would get wrong: a pod's identity labels hold more than its own labels (namespace, namespace's labels, service
account, cluster); `security_labels` is the one place that says which.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache

LabelPairs = tuple[tuple[str, str], ...]

NAMESPACE = "k8s:io.kubernetes.pod.namespace"
NAMESPACE_LABELS_PREFIX = "k8s:io.cilium.k8s.namespace.labels."
SERVICE_ACCOUNT = "k8s:io.cilium.k8s.policy.serviceaccount"
CLUSTER = "k8s:io.cilium.k8s.policy.cluster"
NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
NAMED_PORTS = "kilim:named-ports"
IPV6_ONLY = "kilim:ipv6-only"  # of an endpoint without an IPv4 address


def sorted_pairs(labels: Mapping[str, str]) -> LabelPairs:
    return tuple(sorted(labels.items()))


@lru_cache(maxsize=4096)  # many endpoints are alike, and many are relabelled at once
def security_labels(
    pod_labels: LabelPairs, namespace: str, namespace_labels: LabelPairs, service_account: str, cluster: str
) -> tuple[str, ...]:
    """The labels that make an endpoint's identity, sorted. Source of the names: Cilium, identity concepts.

    1. The pod's own labels, less those that would pass for one of the following: a pod cannot claim a namespace.
    2. Its namespace's labels, among them the namespace's name, which Kubernetes sets on every namespace.
    3. Namespace, service account, cluster.
    """
    own = {f"k8s:{key}": value for key, value in pod_labels}
    labels = {f"{key}={value}" for key, value in own.items() if not _is_derived(key)}
    names = dict(namespace_labels) | {NAMESPACE_NAME_LABEL: namespace}
    labels |= {f"{NAMESPACE_LABELS_PREFIX}{key}={value}" for key, value in names.items()}
    labels.add(f"{NAMESPACE}={namespace}")
    labels.add(f"{SERVICE_ACCOUNT}={service_account or 'default'}")
    labels.add(f"{CLUSTER}={cluster}")
    return tuple(sorted(labels))


def named_ports_label(ports: Iterable[tuple[str, int, int]]) -> str:
    """(name, port, protocol) of each, for endpoints that offer others than those that are like them otherwise."""
    return f"{NAMED_PORTS}=" + ",".join(f"{name}:{port}/{protocol}" for name, port, protocol in sorted(ports))


def _is_derived(key: str) -> bool:
    return key in (NAMESPACE, SERVICE_ACCOUNT, CLUSTER) or key.startswith(NAMESPACE_LABELS_PREFIX)


def label_map(labels: Iterable[str]) -> dict[str, str]:
    """`source:key=value` strings to {source:key: value}."""
    pairs: dict[str, str] = {}
    for label in labels:
        key, _, value = label.partition("=")
        pairs[key] = value
    return pairs
