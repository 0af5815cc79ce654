"""Manifests in and out: kinds, metadata, canonical JSON, nouns."""

import pytest

from kilim.model.invalid import Invalid
from kilim.model.nouns import NamedPort, Namespace, Pod, Policy
from kilim.model.resource import canonical_json, manifest_of, parse_manifest

POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {
        "name": "db.v1",
        "uid": "u",
        "resourceVersion": "7",
        "creationTimestamp": None,
        "managedFields": [{}],
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
    },
    "spec": {"podSelector": {}},
    "status": {},
}


def test_policy_keeps_its_canonical_manifest() -> None:
    wanted = (
        '{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy",'
        '"metadata":{"name":"db.v1","namespace":"default"},"spec":{"podSelector":{}}}'
    )
    resource = parse_manifest(POLICY)
    assert resource.noun == Policy("NetworkPolicy", "default", "db.v1", wanted)
    assert resource.manifest_json == wanted
    assert parse_manifest(manifest_of(resource.noun)) == resource
    assert canonical_json(manifest_of(resource.noun)) == wanted


def test_namespace_gets_its_name_as_label() -> None:
    resource = parse_manifest({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    assert resource.noun == Namespace("shop", (("kubernetes.io/metadata.name", "shop"),))
    assert parse_manifest(manifest_of(resource.noun)) == resource


def test_pod() -> None:
    def port(number: int, name: str | None = None, protocol: str | None = None) -> dict[str, object]:
        return {"containerPort": number, "name": name, "protocol": protocol}

    spec = {
        "serviceAccountName": "web",
        "volumes": [{"anything": 1}],
        "initContainers": [
            {"name": "once", "ports": [port(1, "once")]},
            {"name": "sidecar", "restartPolicy": "Always", "ports": [port(15090, "metrics")]},
        ],
        "containers": [
            {"name": "a", "image": "x", "ports": [port(80, "http"), port(53, "dns", "UDP"), port(9)]},
            {"name": "b", "ports": [port(81, "http")]},
        ],
    }
    metadata = {"name": "web-0", "namespace": "shop", "labels": {"b": "2", "a": "1"}}
    noun = parse_manifest({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}).noun
    ports = (
        NamedPort("dns", 53, 17),
        NamedPort("http", 80, 6),
        NamedPort("http", 81, 6),
        NamedPort("metrics", 15090, 6),
    )
    assert noun == Pod("shop", "web-0", (("a", "1"), ("b", "2")), "web", ports)
    assert parse_manifest(manifest_of(noun)).noun == noun


def policy(**changes: object) -> dict[str, object]:
    return {**POLICY, **changes}


def pod(spec: object) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec}


def pod_with_ports(*ports: object) -> dict[str, object]:
    return pod({"containers": [{"ports": list(ports)}]})


@pytest.mark.parametrize(
    ("manifest", "path", "rule"),
    [
        (["x"], "", "must be an object, not a list"),
        ({}, "kind", "Required value"),
        (policy(kind="Deployment"), "kind", 'is not supported; supported: cilium.io/v2 CiliumCIDRGroup, cilium.io/'),
        (policy(kind=["NetworkPolicy"]), "kind", "must be a string, not a list"),
        (policy(apiVersion=None), "apiVersion", "Required value"),
        (policy(apiVersion="v1"), "apiVersion", "it must be networking.k8s.io/v1"),
        (policy(data={}), "data", 'unknown field "data"'),
        (policy(metadata=None), "metadata.name", "Required value: name is required"),
        (policy(metadata={"generateName": "x-"}), "metadata.name", "Required value"),
        (policy(metadata={"name": "Db"}), "metadata.name", 'Invalid value: "Db": a lowercase RFC 1123 subdomain must'),
        (policy(metadata={"name": 1}), "metadata.name", "must be a string, not a number"),
        (policy(metadata={"name": "a" * 254}), "metadata.name", "must be no more than 253 characters"),
        (policy(metadata={"name": "a", "namespace": "a.b"}), "metadata.namespace", "a lowercase RFC 1123 label must"),
        (policy(metadata={"name": "a", "label": {}}), "metadata.label", 'unknown field "label"'),
        (policy(metadata={"name": "a", "labels": {"a": True}}), "metadata.labels.a", "must be a string, not a boolean"),
        (policy(metadata={"name": "a", "labels": {"a b": ""}}), "metadata.labels", "name part must consist of"),
        (policy(metadata={"name": "a", "annotations": {"a b": ""}}), "metadata.annotations", "name part must consist"),
        (policy(metadata={"name": "a", "annotations": {"a": "x" * 300000}}), "metadata.annotations", "Too long"),
        (policy(spec={"podSelector": 1}), "spec.podSelector", "must be an object"),
        (
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a.b"}},
            "metadata.name",
            "a lowercase RFC 1123 label must consist of",
        ),
        (
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "namespace": "b"}},
            "metadata.namespace",
            "Forbidden: not allowed on this type",
        ),
        (pod([]), "spec", "must be an object, not a list"),
        (pod({"serviceAccountName": "A"}), "spec.serviceAccountName", "a lowercase RFC 1123 subdomain must"),
        (pod({"containers": {}}), "spec.containers", "must be a list, not an object"),
        (pod_with_ports({}), "spec.containers[0].ports[0].containerPort", "Required value"),
        (pod_with_ports({"containerPort": 0}), "spec.containers[0].ports[0].containerPort", "between 1 and 65535"),
        (pod_with_ports({"containerPort": 1, "name": "A"}), "spec.containers[0].ports[0].name", "must contain only"),
        (pod_with_ports({"containerPort": 1, "protocol": "X"}), "spec.containers[0].ports[0].protocol", "Unsupported"),
        (
            pod_with_ports({"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}),
            "spec.containers[0].ports[1].name",
            'Duplicate value: "a"',
        ),
        (pod_with_ports({"containerPort": 1, "port": 2}), "spec.containers[0].ports[0].port", "unknown field"),
    ],
)  # fmt: skip
def test_refused(manifest: object, path: str, rule: str) -> None:
    with pytest.raises(Invalid) as refusal:
        parse_manifest(manifest)
    assert refusal.value.path == path
    assert rule in refusal.value.rule
