"""Null in manifests: what Go's decoding makes of it for kinds of Kubernetes itself, refused for custom kinds."""

from typing import Any

import pytest

from kilim.model.compile import parts_as_written
from kilim.model.invalid import Invalid
from kilim.model.nouns import Policy
from kilim.model.resource import parse_manifest


def manifest(kind: str, spec: Any, version: str = "cilium.io/v2", **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "p", **metadata}, "spec": spec}


def test_a_null_label_selects_what_has_it_empty() -> None:
    spec = {"podSelector": {"matchLabels": {"role": None}}, "ingress": [{"from": [{"podSelector": {}}]}]}
    policy = parse_manifest(manifest("NetworkPolicy", spec, "networking.k8s.io/v1")).noun
    assert isinstance(policy, Policy)
    (part,) = parts_as_written(policy)
    here = {"k8s:io.kubernetes.pod.namespace": "default"}
    assert part.subjects.matches({**here, "k8s:role": ""})
    assert not part.subjects.matches(here)
    assert not part.subjects.matches({**here, "k8s:role": "web"})


@pytest.mark.parametrize(
    ("kind", "spec", "path"),
    [
        (
            "CiliumNetworkPolicy",
            {"endpointSelector": {"matchLabels": {"app": None}}, "ingress": [{}]},
            "spec.endpointSelector.matchLabels.app",
        ),
        (
            "CiliumNetworkPolicy",
            {"endpointSelector": {}, "ingress": [{"fromEndpoints": [{"matchLabels": {"role": None}}]}]},
            "spec.ingress[0].fromEndpoints[0].matchLabels.role",
        ),
        (
            "CiliumNetworkPolicy",
            {"endpointSelector": {}, "ingress": [{"fromEndpoints": [None]}]},
            "spec.ingress[0].fromEndpoints[0]",
        ),
        ("CiliumClusterwideNetworkPolicy", {"endpointSelector": {}, "egress": [None]}, "spec.egress[0]"),
        (
            "CiliumNetworkPolicy",
            {"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": "0121"}]}]}]},
            "spec.ingress[0].toPorts[0].ports[0].port",
        ),
    ],
)
def test_what_a_custom_kind_cannot_have_is_refused(kind: str, spec: Any, path: str) -> None:
    with pytest.raises(Invalid) as found:
        parse_manifest(manifest(kind, spec))
    assert found.value.path == path


def test_a_null_label_of_a_cluster_network_policy_or_of_metadata_is_refused() -> None:
    peer = {"namespaces": {"matchLabels": {"team": None}}}
    spec = {
        "tier": "Admin",
        "priority": 1,
        "subject": {"namespaces": {}},
        "ingress": [{"action": "Accept", "from": [peer]}],
    }
    with pytest.raises(Invalid, match="must be a string, not null"):
        parse_manifest(manifest("ClusterNetworkPolicy", spec, "policy.networking.k8s.io/v1alpha2"))
    with pytest.raises(Invalid, match=r"metadata\.labels\.a: must be a string, not null"):
        parse_manifest(manifest("CiliumCIDRGroup", {"externalCIDRs": ["192.0.2.0/24"]}, labels={"a": None}))
